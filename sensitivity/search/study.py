"""The search: an Optuna study of (seconds, LPIPS) over skip-lists, kept so that it can always go on.

Each trial is one choice of formats for the groups: priced, generated, compared with bf16, told to Optuna. The first trials are the bounds and what people do
today: nothing quantized, everything quantized (in each format), the rule of thumb. Then the proposer proposes. A choice that was scored is never
scored again; a trial that fails is kept with its reason, and three alike in a row end the search.

    result = run_search(evaluator, candidates, store, SearchSettings(formats=..., budget=50, target="b200"))

Continuing. The study's name holds a fingerprint of all that decides its result (evaluation, groups and their prices, formats, seed, sampler), so the same
command finds its own study, and another command never mixes with it. Proposals depend on (seed, index, finished trials) only: a search that was
interrupted, continued or run at once gives the same trials. A trial that was running when its process died is marked as failed and run again.

Conventions: budget counts trials whose pictures were generated (or read from the store, where an earlier study had generated them).
"""

import json
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from sensitivity.calibrate import calibrate
from sensitivity.candidates import Candidates, Choice, Granularity
from sensitivity.errors import MeasurementError, StoreError
from sensitivity.fidelity._base import Score
from sensitivity.pipelines import digest_of
from sensitivity.scoring import Evaluator, Split
from sensitivity.search.sampler import Observation, OptunaProposer, Proposer, SamplerName, make_proposer
from sensitivity.spec import FormatName, check_budget
from sensitivity.store import Store, assignment_key

SAME_FAILURES = 3
MAX_REPEATS = 100
OURS = "sensitivity"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """What a search is asked for. `target` names the priced GPU; `calibrated` says whether layer sensitivities guide the proposals."""

    formats: tuple[FormatName, ...]
    target: str
    budget: int
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTrial:
    """One finished trial. `label` names a baseline ("none", "all nvfp4", "rule of thumb"), "" for a proposal; `seconds` is what scoring took."""

    index: int
    choice: Choice
    label: str
    latency_s: float
    score: Score
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SearchEvents:
    """Where the search says what it does; each is called from the search's own thread.

    `started(name, other studies of this model in the database)` or `continued(name, finished trials)`, then `calibrated(done, total)`,
    `began(index, label)`, `pictures(done)`, `scored(trial)`, `failed(index, reason)`.
    """

    started: Callable[[str, tuple[str, ...]], None] = lambda _name, _others: None

    calibrated: Callable[[int, int], None] = lambda _done, _total: None
    continued: Callable[[str, tuple[ScoredTrial, ...]], None] = lambda _name, _trials: None
    began: Callable[[int, str], None] = lambda _index, _label: None
    pictures: Callable[[int], None] = lambda _done: None
    scored: Callable[[ScoredTrial], None] = lambda _trial: None
    failed: Callable[[int, str], None] = lambda _index, _reason: None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """All finished trials of a study, in order, and how many failed."""

    study: str
    trials: tuple[ScoredTrial, ...]
    failed: int
    interrupted: bool


@dataclass
class _Log:
    """The Optuna study, read and written in our terms."""

    study: optuna.Study
    candidates: Candidates
    events: SearchEvents
    failures: list[str] = field(default_factory=list)

    def finished(self) -> list[ScoredTrial]:
        trials = [self._thaw(t) for t in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if "index" in t.user_attrs]
        return sorted(trials, key=lambda t: t.index)

    def _thaw(self, trial: FrozenTrial) -> ScoredTrial:
        kept = trial.user_attrs
        return ScoredTrial(
            index=kept["index"], choice=tuple(json.loads(kept["choice"])), label=kept["label"], latency_s=trial.values[0], seconds=kept["seconds"],
            score=Score.from_json(json.loads(kept["score"])),
        )  # fmt: skip

    def failed_choices(self) -> set[Choice]:
        """Choices that failed for a reason of their own: not because the process ended, nor among those alike that ended a search."""
        failed: set[Choice] = set()
        row: list[tuple[str, Choice]] = []  # failures since the last trial that finished
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            reason = trial.user_attrs.get("reason")
            if trial.state is TrialState.COMPLETE:
                row.clear()
            elif "choice" in trial.user_attrs and reason != "interrupted":
                row.append((_gist(reason or ""), tuple(json.loads(trial.user_attrs["choice"]))))
                failed.add(row[-1][1])
                if _all_alike([gist for gist, _ in row]):
                    failed -= {choice for _, choice in row[-SAME_FAILURES:]}
                    row.clear()
        return failed

    def count_failed(self) -> int:
        """Trials that were tried and failed: neither interrupted ones nor proposals that were only repeated."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return sum("choice" in t.user_attrs and t.user_attrs.get("reason") != "interrupted" for t in trials)

    def reap(self) -> None:
        """Trials of a process that died are failed, as "interrupted"; the lock file says that no other process runs."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            self.study._storage.set_trial_user_attr(trial._trial_id, "reason", "interrupted")
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def complete(self, trial: optuna.Trial, scored: ScoredTrial) -> None:
        data = scored.score.to_json()
        for key, value in {"index": scored.index, "label": scored.label, "seconds": scored.seconds, "score": json.dumps(data)}.items():
            trial.set_user_attr(key, value)
        self.study.tell(trial, [scored.latency_s, scored.score.mean])

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)


def study_name(evaluator: Evaluator, candidates: Candidates, settings: SearchSettings) -> str:
    """Name with a fingerprint of all that decides the result except the budget."""
    groups = [[g.name, list(g.fqns), [f"{gain:.9g}" for gain in g.gains_s]] for g in candidates.groups]
    fingerprint = digest_of(
        {
            "evaluation": evaluator.evaluation_key("search"),
            "groups": groups,
            "formats": list(candidates.formats),
            "target": settings.target,
            "seed": settings.seed,
            "sampler": settings.sampler,
            "calibrated": settings.calibrated,
            "proposals": 1,
        }
    )
    return f"{evaluator.spec.name}-{'+'.join(settings.formats)}-{settings.target}-{fingerprint[:8]}"


def _open(store: Store, name: str, candidates: Candidates, events: SearchEvents) -> _Log:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = RDBStorage(store.url, engine_kwargs={"connect_args": {"timeout": 30}})
    except RuntimeError as error:
        raise StoreError(
            f"{store.path} has another version's Optuna tables ({str(error).splitlines()[0]}); pass another --storage"
        ) from None
    foreign = [s.study_name for s in optuna.get_all_study_summaries(storage) if OURS not in s.user_attrs and s.study_name != name]
    if foreign:
        raise StoreError(
            f"{store.path} holds the Optuna study {foreign[0]!r}, which sensitivity did not make; allowed is a database of its own: pass another --storage"
        )
    study = optuna.create_study(storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True)
    if OURS not in study.user_attrs:
        study.set_user_attr(OURS, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["latency_s", "lpips"])
    log = _Log(study, candidates, events)
    log.reap()
    return log


def run_search(
    evaluator: Evaluator, candidates: Candidates, store: Store, settings: SearchSettings, events: SearchEvents | None = None
) -> SearchResult:
    """Bring the study up to `settings.budget` trials.

    Raises:
        UserError: the budget is below 1.
        StoreError: the database holds a study that is not ours.
        MeasurementError: three trials in a row failed for the same reason.
    """
    events = events or SearchEvents()
    check_budget(settings.budget)
    name = study_name(evaluator, candidates, settings)
    log = _open(store, name, candidates, events)
    history = log.finished()
    if history:
        events.continued(name, tuple(history))
    else:
        names = optuna.get_all_study_names(log.study._storage)
        events.started(name, tuple(n for n in names if n != name and n.startswith(f"{evaluator.spec.name}-")))
    interrupted = False
    try:
        if len(history) < settings.budget:
            evaluator.references("search")
            uses_errors = settings.calibrated and settings.sampler is SamplerName.KNAPSACK
            errors = calibrate(evaluator, candidates, store, progress=events.calibrated) if uses_errors else None
            proposer = make_proposer(settings.sampler, candidates, seed=settings.seed, errors=errors)
            while len(history) < settings.budget:
                scored = _one_trial(evaluator, store, log, proposer, history)
                if scored is None and not log.failures:
                    break  # every choice has been tried
                if scored is not None:
                    history.append(scored)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        evaluator.switch.set({})
    return SearchResult(study=name, trials=tuple(history), failed=log.count_failed(), interrupted=interrupted)


def baselines(candidates: Candidates) -> list[tuple[str, Choice]]:
    """The first trials: (label, choice); equal choices once, under the first label."""
    named = [("none", candidates.none_quantized)]
    named += [(f"all {fmt}", candidates.all_quantized(option)) for option, fmt in enumerate(candidates.formats) if option]
    named.append(("rule of thumb", candidates.canonical(candidates.rule_of_thumb)))
    first: dict[Choice, str] = {}
    for label, choice in named:
        first.setdefault(choice, label)
    return [(label, choice) for choice, label in first.items()]


def _one_trial(evaluator: Evaluator, store: Store, log: _Log, proposer: Proposer, history: list[ScoredTrial]) -> ScoredTrial | None:
    """Score the next choice; None where it failed (see `log.failures`) or where no new choice is left."""
    seen = {t.choice for t in history} | log.failed_choices()
    trial, label, choice = _next_choice(log, proposer, history, seen)
    if choice in seen:
        log.fail(trial, "repeated")
        log.failures.clear()
        return None
    index = len(history)
    trial.set_user_attr("choice", json.dumps(choice))
    log.events.began(index, label)
    begun = time.monotonic()
    try:
        score = known_or_scored(evaluator, store, log.candidates.decode(choice), "search", log.events.pictures)
    except KeyboardInterrupt:
        log.fail(trial, "interrupted")
        raise
    except (MeasurementError, RuntimeError) as error:  # RuntimeError: out of memory, a kernel that refuses
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        log.fail(trial, reason)
        log.failures.append(_gist(reason))
        log.events.failed(index, reason)
        if _all_alike(log.failures):
            raise MeasurementError(
                f"{SAME_FAILURES} trials in a row failed alike ({reason}); the study is kept: mend the cause and run again"
            ) from error
        return None
    log.failures.clear()
    scored = ScoredTrial(
        index=index, choice=choice, label=label, latency_s=log.candidates.latency_s(choice), score=score, seconds=time.monotonic() - begun
    )
    log.complete(trial, scored)
    log.events.scored(scored)
    return scored


def _gist(reason: str) -> str:
    """A reason without its numbers: two that differ only in bytes or addresses are alike."""
    return re.sub(r"\d[\d.]*", "#", reason)


def _all_alike(gists: list[str]) -> bool:
    """Whether the last `SAME_FAILURES` failures have one reason."""
    return len(gists) >= SAME_FAILURES and len(set(gists[-SAME_FAILURES:])) == 1


def _next_choice(log: _Log, proposer: Proposer, history: list[ScoredTrial], seen: set[Choice]) -> tuple[optuna.Trial, str, Choice]:
    """The trial to run: a baseline that is still missing, or a proposal; proposals that repeat are recorded as such and asked again."""
    missing = [(label, choice) for label, choice in baselines(log.candidates) if choice not in seen]
    if missing:
        label, choice = missing[0]
        if isinstance(proposer, OptunaProposer):
            log.study.enqueue_trial(proposer.parameters(choice))
            trial = log.study.ask()
            return trial, label, proposer.propose(trial, [], seen, 0)
        return log.study.ask(), label, choice
    observed = [Observation(choice=t.choice, lpips=t.score.mean) for t in history]
    proposed = sum(not t.label for t in history)  # not len(history) less the baselines, which may have failed
    for attempt in range(MAX_REPEATS):
        index = proposed + attempt * 10_000
        proposer.prepare(log.study, index)
        trial = log.study.ask()
        choice = log.candidates.canonical(proposer.propose(trial, observed, seen, index))
        if choice not in seen or attempt == MAX_REPEATS - 1 or not isinstance(proposer, OptunaProposer):
            break
        log.fail(trial, "repeated")
    return trial, "", choice


def known_or_scored(
    evaluator: Evaluator, store: Store, formats: dict[str, FormatName], split: Split, pictures: Callable[[int], Any]
) -> Score:
    """The score of an assignment on a split: from the store where it is known, else made and kept there."""
    evaluation, assignment = evaluator.evaluation_key(split), assignment_key(formats)
    known = store.find_score(evaluation, assignment)
    if known is not None:
        return known
    begun = time.monotonic()
    score = evaluator.score(formats, split, after_batch=pictures)
    store.save_score(evaluation, assignment, score, seconds=time.monotonic() - begun)
    return score
