"""The search: an Optuna study of (seconds, LPIPS) over skip-lists, kept so that it can always go
on.

Each trial is one choice of formats for the groups: priced, generated, compared with bf16, told to
Optuna. The first trials are the bounds and what people do today: nothing quantized, everything
quantized (in each format), the rule of thumb. Then the proposer proposes. A choice that was scored
is never scored again; a trial that fails is kept with its reason, and three alike in a row end the
search.

    result = run_search(evaluator, candidates, store, SearchSettings(formats=..., budget=50, target="b200"))

Continuing. The study's name holds a fingerprint of all that decides its result (evaluation, groups
and their prices, formats, seed, sampler, stopping), so the same command finds its own study, and
another command never mixes with it. Proposals depend on (seed, index, earlier trials) only: a
search that was interrupted, continued or run at once gives the same trials. A trial that was
running when its process died is marked as failed and run again.

Stopping. Where the study has a `search.chunk`, a proposal that a finished trial dominates ends
after some of its prompts (`search.stopping`). It counts as a trial and is never proposed again, and
the proposer knows its estimate; it has no score, so it is on no front. A score that is in the store
is never cut short.

Sound. Where the pipeline makes sound, LPIPS here means damage: LPIPS with the sound's share
(`fidelity._base`). A trial whose sound is farther from bf16's than the study allows
(`fidelity.max_audio_distance`) is finished and kept, but it is on no front and no rival, and
proposers and Optuna are told a value that grows with the excess.

Conventions: budget counts trials whose pictures were generated (or read from the store, where an
earlier study had generated them).
"""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.storages import RDBStorage

from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.errors import CalibrationError, FormatError, MeasurementError, StoreError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore
from sensitivity.models.compiled_regions import compiled_graphs
from sensitivity.models.generating import digest_of
from sensitivity.search.calibration.jobs import Errors, broken_options
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.held_out import known_or_scored
from sensitivity.search.log import SAME_FAILURES, StudyLog, all_alike, gist
from sensitivity.search.proposers import (
    Observation,
    OptunaProposer,
    Proposer,
    SamplerName,
    make_proposer,
)
from sensitivity.search.stopping import ALPHA, Rival, Stop, StoppingRule
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial, Tried
from sensitivity.spec.study_spec import FidelitySection, check_budget

MAX_REPEATS = 100
OURS = "sensitivity"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """What a search is asked for.

    `target` names the priced GPU; `calibrated` says whether layer sensitivities guide the
    proposals.
    """

    formats: tuple[FormatName, ...]
    target: str
    budget: int
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """All finished trials of a study, in order, those that were stopped early, and how many failed."""

    study: str
    trials: tuple[ScoredTrial, ...]
    failed: int
    interrupted: bool
    stopped: tuple[StoppedTrial, ...] = ()

    @property
    def tried(self) -> int:
        """Trials that count towards the budget: finished and stopped ones."""
        return len(self.trials) + len(self.stopped)

    @property
    def undrawn(self) -> int:
        """Pictures that stopping saved."""
        return sum(round(t.stop.prompts / t.stop.share) - t.stop.prompts for t in self.stopped)


def study_name(evaluator: Evaluator, candidates: Candidates, settings: SearchSettings) -> str:
    """Name with a fingerprint of all that decides the result except the budget."""
    groups = [
        [g.name, list(g.fqns), [f"{gain:.9g}" for gain in g.gains_s]] for g in candidates.groups
    ]
    fingerprint = digest_of(
        {
            "evaluation": evaluator.evaluation_key("search"),
            "groups": groups,
            "formats": list(candidates.formats),
            "target": settings.target,
            "seed": settings.seed,
            "sampler": settings.sampler,
            "calibrated": settings.calibrated,
            "proposals": 3,
        }
        | ({"alpha": ALPHA} if _looks(evaluator) else {})
        | _sound_terms(evaluator)
    )
    return f"{evaluator.spec.name}-{'+'.join(settings.formats)}-{settings.target}-{fingerprint[:8]}"


def _sound_terms(evaluator: Evaluator) -> dict[str, Any]:
    """What the study says about sound, where it is not the default."""
    said, default = evaluator.spec.fidelity, FidelitySection()
    return {
        key: getattr(said, key)
        for key in ("audio_weight", "max_audio_distance")
        if getattr(said, key) != getattr(default, key)
    }


def _looks(evaluator: Evaluator) -> int:
    """How often a trial is looked at before its last prompt: only where the study asks for chunks."""
    return evaluator.looks("search") if evaluator.spec.search.chunk is not None else 0


def open_storage(store: Store) -> RDBStorage:
    """Optuna's side of the database. Raises StoreError where another version of Optuna wrote it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return RDBStorage(store.url, engine_kwargs={"connect_args": {"timeout": 30}})
    except RuntimeError as error:
        raise StoreError(
            f"{store.path} has another version's Optuna tables ({str(error).splitlines()[0]}); pass"
            " another --storage"
        ) from None


def _open(store: Store, name: str, candidates: Candidates, events: SearchEvents) -> StudyLog:
    storage = open_storage(store)
    foreign = [
        s.study_name
        for s in optuna.get_all_study_summaries(storage)
        if OURS not in s.user_attrs and s.study_name != name
    ]
    if foreign:
        raise StoreError(
            f"{store.path} holds the Optuna study {foreign[0]!r}, which sensitivity did not make;"
            " allowed is a database of its own: pass another --storage"
        )
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
    )
    if OURS not in study.user_attrs:
        study.set_user_attr(OURS, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["latency_s", "lpips"])
    log = StudyLog(study, candidates, events)
    log.reap()
    return log


def run_search(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    settings: SearchSettings,
    events: SearchEvents | None = None,
) -> SearchResult:
    """Bring the study up to `settings.budget` trials.

    Raises:
        UserError: the budget is below 1.
        FormatError: every group in every format gives NaN or inf.
        StoreError: the database holds a study that is not ours.
        MeasurementError: three trials in a row failed for the same reason.
    """
    events = events or SearchEvents()
    check_budget(settings.budget)
    name = study_name(evaluator, candidates, settings)
    log = _open(store, name, candidates, events)
    log.study.set_user_attr(
        "settings", {"model": evaluator.spec.name, **asdict(settings)}
    )  # `search.kept` reads them
    history = log.history()
    if history:
        events.continued(name, tuple(history))
    else:
        names = optuna.get_all_study_names(log.study._storage)
        events.started(
            name, tuple(n for n in names if n != name and n.startswith(f"{evaluator.spec.name}-"))
        )
    interrupted = False
    try:
        if len(history) < settings.budget:
            evaluator.references("search")
            _ = evaluator.noise_floors  # drawn now, so that no trial has to
            looks = _looks(evaluator)
            rule = (
                StoppingRule(alpha=ALPHA, looks=looks, noise_floor=evaluator.damage_floor)
                if looks
                else None
            )
            uses_errors = settings.calibrated and settings.sampler == SamplerName.KNAPSACK
            errors = _calibrated(evaluator, candidates, store, events) if uses_errors else None
            log.keep_errors(errors)
            log.candidates = _sound_candidates(candidates, errors or {}, events)
            proposer = make_proposer(
                settings.sampler, log.candidates, seed=settings.seed, errors=errors
            )
            while len(history) < settings.budget:
                tried = _one_trial(evaluator, store, log, proposer, history, rule)
                if tried is None and not log.failures:
                    break  # every choice has been tried
                if tried is not None:
                    history.append(tried)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        evaluator.switch.set({})
    return _result(log, name, history, interrupted=interrupted)


def _calibrated(
    evaluator: Evaluator, candidates: Candidates, store: Store, events: SearchEvents
) -> Errors | None:
    """Layer sensitivities; None, with a word, where this denoiser cannot be measured: trials alone
    then say what damages.
    """
    events.calibrating(calibration_cost(evaluator, candidates, store).describe())
    try:
        return calibrate(evaluator, candidates, store, progress=events.calibrated)
    except CalibrationError as error:
        evaluator.recover()
        events.noted(
            f"the search goes on without layer sensitivities: {str(error).partition('; ')[0]}"
        )
        return None


def _sound_candidates(candidates: Candidates, errors: Errors, events: SearchEvents) -> Candidates:
    """The candidates without what gives NaN or inf on the first states already.

    Raises FormatError where nothing is left.
    """
    broken = sorted(broken_options(errors))
    if not broken:
        return candidates
    names = [f"{candidates.groups[g].name} in {candidates.formats[o]}" for g, o in broken]
    said = (
        f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}: NaN or"
        " inf, as torchao's kernels give for operands that are all zeros"
    )
    if len(broken) == len(errors):
        raise FormatError(
            f"{said}; allowed is a format that some Linear survives: choose another --format"
        )
    events.noted(f"stay out of the search: {said}")
    return candidates.without(broken)


def read_search(store: Store, name: str, candidates: Candidates) -> SearchResult:
    """The trials of a study that is in the database, as they are; nothing is proposed, drawn or
    written.
    """
    log = StudyLog(
        optuna.load_study(study_name=name, storage=open_storage(store)), candidates, SearchEvents()
    )
    return _result(log, name, log.history(), interrupted=False)


def _result(
    log: StudyLog, name: str, history: Sequence[Tried], *, interrupted: bool
) -> SearchResult:
    return SearchResult(
        study=name,
        trials=log.estimated(_scored(history)),
        failed=log.count_failed(),
        interrupted=interrupted,
        stopped=tuple(t for t in history if isinstance(t, StoppedTrial)),
    )


def _scored(history: Sequence[Tried]) -> list[ScoredTrial]:
    return [t for t in history if isinstance(t, ScoredTrial)]


def _one_trial(
    evaluator: Evaluator,
    store: Store,
    log: StudyLog,
    proposer: Proposer,
    history: Sequence[Tried],
    rule: StoppingRule | None,
) -> Tried | None:
    """Score the next choice, or stop at it; None where it failed (see `log.failures`) or where no
    new choice is left.
    """
    seen = {t.choice for t in history} | log.failed_choices()
    trial, label, choice = _next_choice(log, proposer, history, seen)
    if choice in seen:
        log.fail(trial, "repeated")
        log.failures.clear()
        return None
    index, latency_s, stops = len(history), log.candidates.latency_s(choice), list[Stop]()
    trial.set_user_attr("choice", json.dumps(choice))
    log.events.began(index, label)
    begun, graphs = time.monotonic(), compiled_graphs()
    keep_going = (
        None if label or rule is None else _looker(rule, latency_s, _scored(history), stops)
    )
    try:
        score = known_or_scored(
            evaluator,
            store,
            log.candidates.decode(choice),
            "search",
            log.events.pictures,
            keep_going=keep_going,
        )
    except KeyboardInterrupt:
        log.fail(trial, "interrupted")
        raise
    except (
        MeasurementError,
        RuntimeError,
    ) as error:  # RuntimeError: out of memory, a kernel that refuses
        reason = (
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        )
        evaluator.recover()
        log.fail(trial, reason)
        log.failures.append(gist(reason))
        log.events.failed(index, reason)
        if all_alike(log.failures):
            raise MeasurementError(
                f"{SAME_FAILURES} trials in a row failed alike ({reason}); the study is kept: mend"
                " the cause and run again"
            ) from error
        return None
    log.failures.clear()
    seconds = time.monotonic() - begun
    if evaluator.compiled:
        trial.set_user_attr(
            "compiled_graphs", compiled_graphs() - graphs
        )  # 0: switching compiles nothing
    if isinstance(score, PartialScore):
        stopped = StoppedTrial(
            index=index, choice=choice, latency_s=latency_s, stop=stops[-1], seconds=seconds
        )
        log.stop(trial, stopped)
        log.events.stopped(stopped)
        return stopped
    scored = ScoredTrial(
        index=index, choice=choice, label=label, latency_s=latency_s, score=score, seconds=seconds
    )
    log.complete(trial, scored)
    log.events.scored(scored)
    return scored


def _looker(
    rule: StoppingRule, latency_s: float, finished: Sequence[ScoredTrial], stops: list[Stop]
) -> Callable[[tuple[float, ...]], bool]:
    """Whether a trial goes on after these distances; where not, the reason is appended to `stops`,
    the rival by the index of its trial.
    """
    finished = [t for t in finished if t.score.is_allowed]
    rivals = [Rival(latency_s=t.latency_s, per_prompt=t.score.damages) for t in finished]

    def keep_going(values: tuple[float, ...]) -> bool:
        stop = rule.decide(values, latency_s, rivals)
        if stop is not None:
            stops.append(replace(stop, rival=finished[stop.rival].index))
        return stop is None

    return keep_going


def _observed(tried: Tried) -> Observation:
    """What a proposer learns of a trial."""
    if isinstance(tried, StoppedTrial):
        return Observation(choice=tried.choice, lpips=tried.stop.estimate, share=tried.stop.share)
    return Observation(choice=tried.choice, lpips=tried.score.cost)


def _next_choice(
    log: StudyLog, proposer: Proposer, history: Sequence[Tried], seen: set[Choice]
) -> tuple[optuna.Trial, str, Choice]:
    """The trial to run: a baseline that is still missing, or a proposal; proposals that repeat are
    recorded as such and asked again.
    """
    missing = [(label, choice) for label, choice in baselines(log.candidates) if choice not in seen]
    if missing:
        label, choice = missing[0]
        if isinstance(proposer, OptunaProposer):
            log.study.enqueue_trial(proposer.parameters(choice))
            trial = log.study.ask()
            return trial, label, proposer.propose(trial, [], seen, 0)
        return log.study.ask(), label, choice
    observed = [_observed(t) for t in history]
    proposed = sum(
        not t.label for t in history
    )  # not len(history) less the baselines, which may have failed
    for attempt in range(MAX_REPEATS):
        index = proposed + attempt * 10_000
        proposer.prepare(log.study, index)
        trial = log.study.ask()
        choice = log.candidates.canonical(proposer.propose(trial, observed, seen, index))
        if (
            choice not in seen
            or attempt == MAX_REPEATS - 1
            or not isinstance(proposer, OptunaProposer)
        ):
            break
        log.fail(trial, "repeated")
    return trial, "", choice
