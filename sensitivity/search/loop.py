"""How does a search go? An Optuna study of (seconds, typical LPIPS) over skip-lists.

Each trial is one choice of formats for the groups. It is priced, its pictures are generated and
compared with bf16's, and the result is kept (`search.trial_runner`). First come the baselines, the
bounds and what people do today: nothing quantized, everything quantized in each format, the rule of
thumb, published lists. Then the proposer proposes, until the budget is reached. No choice is scored
twice. A run that fails is tried once more, and then kept with its reason (`search.attempts`); three
failures alike in a row end the search.

    settings = SearchSettings(formats=(FormatName.NVFP4,), budget=50, target="b200")
    result = run_search(evaluator, candidates, store, settings)

Continuing. The name of a study holds a fingerprint of all that decides its result
(`search.settings`), so the same command continues its own study. Proposals depend on (seed, index,
earlier trials, what other workers are at) only: a search of one worker that was interrupted and
continued gives the same trials as one that was not. A choice that was being scored when its process
died is scored again, and given up if that happens at the same choice again and again. A study of
the version before, which ranked by the mean, is continued in a new study: its scored proposals are
the first trials, and no score is computed again.

Stopping. Where the study sets `search.chunk`, a proposal that a finished trial dominates is stopped
after some of its prompts (`search.stopping`). It counts as a trial and is never proposed again, and
the proposer gets its estimate. It has no score, so it is on no front. A score that is in the store
already is used in full.

Sound. Where the pipeline makes sound, LPIPS in this room means damage: LPIPS plus the weighted
distance of the sound (`fidelity.score`). A trial whose sound is farther from bf16's than the study
allows (`fidelity.max_audio_distance`) is finished and kept, but it is on no front and stops no
other trial. Proposers and Optuna get a larger value for it, which grows with the excess.

Workers. Several processes may run one search, by one database (`search.trial_runner`,
`search.workers`). The budget is that of the study, whoever scores; each choice is scored by one of
them. All return when the study is complete.

Conventions. The budget counts proposals, scored or stopped; the baselines come on top. A proposal
whose score is in the store counts, and generates no picture.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sensitivity.core.short_reprs import ShortRepr
from sensitivity.errors import DamageError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.attempts import make_references, of_the_caller
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.claims import Claims
from sensitivity.search.log import open_log, read_log, study_names
from sensitivity.search.patience import patient
from sensitivity.search.priors import (
    measure_priors,
    measures_priors,
    prior_pictures,
    without_broken,
)
from sensitivity.search.proposers import make_proposer
from sensitivity.search.settings import EARLIER, SearchSettings, interim_tests, study_name
from sensitivity.search.shortlist import ANSWERS, NEAR
from sensitivity.search.stopping import ALPHA, StoppingRule
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.study_log import StudyLog
from sensitivity.search.trial_runner import TrialRunner, replay_waiting
from sensitivity.search.trials import ScoredTrial, SearchEvents, StoppedTrial, Tried, proposals
from sensitivity.search.work import SearchWork
from sensitivity.search.workers import Worker
from sensitivity.spec.study_spec import check_budget


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SearchResult(ShortRepr):
    """What a study holds.

    Attributes:
        study: its name.
        trials: finished trials, in order, with estimates; the baselines among them have labels.
        failures: the reason of each trial that failed.
        interrupted: whether the search was interrupted before its budget.
        stopped: trials that were stopped early, in order.
        damages: {(group, option): the damage that its format is believed to do}, relative to each
            other; empty where too little is known.
    """

    study: str
    trials: tuple[ScoredTrial, ...]
    failures: tuple[str, ...]
    interrupted: bool
    stopped: tuple[StoppedTrial, ...] = ()
    damages: Mapping[tuple[int, int], float] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many trials failed."""
        return len(self.failures)

    @property
    def tried(self) -> int:
        """Trials that count towards the budget: proposals, scored and stopped."""
        return len(proposals([*self.trials, *self.stopped]))

    @property
    def pictures_saved(self) -> int:
        """Pictures that were not generated, thanks to early stopping."""
        return sum(round(t.stop.prompts / t.stop.share) - t.stop.prompts for t in self.stopped)


def run_search(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    settings: SearchSettings,
    events: SearchEvents | None = None,
    *,
    worker: Worker | None = None,
    kept: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Bring the study of these settings up to `settings.budget` proposals.

    An interruption (Ctrl-C) ends the search; the result then says so.

    Args:
        evaluator: scores skip-lists.
        candidates: what may be chosen.
        store: the database.
        settings: what is asked for. Where other workers live, the study keeps a larger budget that
            it has already.
        events: called as trials begin and end.
        worker: this process, if it has joined the workers of the database already.
        kept: facts that are kept with the study, by name, as JSON can hold them.

    Raises:
        UserError: the budget is below 1.
        FormatError: every group in every format gives NaN or inf.
        StoreError: the database holds an Optuna study that is not ours, or cannot be read.
        MeasurementError: three trials in a row failed for the same reason, or ten for any; or bf16
            itself cannot be run.
    """
    events = events or SearchEvents()
    check_budget(settings.budget)
    with ExitStack() as stack:
        if worker is None:
            worker = stack.enter_context(_joined(store, events))
        name = study_name(evaluator, candidates, settings)
        facts = {"model": evaluator.spec.name, **asdict(settings)}

        def opened() -> tuple[StudyLog, list[Tried], int]:
            log = open_log(store, name, candidates, facts, worker=worker, kept=kept)
            replay_waiting(log, events.noted)
            return log, log.history(), log.budget()

        log, history, budget = patient(opened, noted=events.noted)
        settings = replace(settings, budget=budget)
        _say_which(log, history, evaluator, settings, events)
        interrupted = False
        try:
            _run_trials(evaluator, log, settings, Claims(store, worker), events)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            evaluator.switch.set({})
        return patient(lambda: _result(log, interrupted=interrupted), noted=events.noted)


def _joined(store: Store, events: SearchEvents) -> Worker:
    """This process as a worker of the database."""
    return patient(lambda: Worker.join(store, work="search"), noted=events.noted)


def _say_which(
    log: StudyLog,
    history: Sequence[Tried],
    evaluator: Evaluator,
    settings: SearchSettings,
    events: SearchEvents,
) -> None:
    """Say whether the study is new."""
    if history:
        events.continued(log.name, tuple(history))
        return
    own = (log.name, study_name(evaluator, log.candidates, settings, proposals=EARLIER))
    known = patient(lambda: study_names(log.store), noted=events.noted)
    of_model = f"{evaluator.spec.name}-"
    names = [name for name in known if name not in own and name.startswith(of_model)]
    events.started(log.name, tuple(names))


def _run_trials(
    evaluator: Evaluator,
    log: StudyLog,
    settings: SearchSettings,
    claims: Claims,
    events: SearchEvents,
) -> None:
    """Run what the study lacks, if it lacks anything."""

    def planned() -> tuple[SearchWork, int]:
        work = _work(evaluator, log.candidates, log.store, settings, log.history())
        return work, len(claims.live(log.scope))

    work, busy = patient(planned, noted=events.noted)
    events.planned(work)
    if not work.trials_left and not busy:
        return
    budget = log.budget if log.store.is_shared else lambda: settings.budget
    runner = patient(
        lambda: _prepare(evaluator, log, settings, work, claims, budget, events),
        noted=events.noted,
    )
    runner.run()


def read_search(store: Store, name: str, candidates: Candidates) -> SearchResult:
    """The trials of a study that is in the database. Nothing is proposed, generated or written.

    Raises DamageError where the study is not what was written.
    """
    log = read_log(store, name, candidates)
    return _result(log, interrupted=False)


def _prepare(
    evaluator: Evaluator,
    log: StudyLog,
    settings: SearchSettings,
    work: SearchWork,
    claims: Claims,
    budget: Callable[[], int],
    events: SearchEvents,
) -> TrialRunner:
    """Generate references, calibrate, and make what runs the trials."""
    if work.references:
        events.referenced(0, work.references)
    with evaluator.media_generator.counting(
        of_the_caller(lambda done: events.referenced(done, max(done, work.references)))
    ):
        make_references(evaluator, "search", noted=events.noted)  # so no trial's seconds contain it
    tests = interim_tests(evaluator)
    rule = (
        StoppingRule(alpha=ALPHA, interim_tests=tests, noise_floor=evaluator.damage_floor)
        if tests
        else None
    )
    store = log.store
    errors, steps = measure_priors(evaluator, log.candidates, store, settings, events)
    log.keep_errors(errors)
    log.keep_steps(steps)
    candidates = without_broken(log.candidates, errors or {}, events)
    proposer = make_proposer(
        settings.sampler, candidates, seed=settings.seed, errors=errors, steps=steps
    )
    return TrialRunner(
        evaluator=evaluator,
        store=store,
        log=log,
        claims=claims,
        candidates=candidates,
        proposer=proposer,
        rule=rule,
        known=_known_before(log, evaluator, store, settings, events),
        budget=budget,
        events=events,
    )


def _work(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    settings: SearchSettings,
    history: Sequence[Tried],
) -> SearchWork:
    """What there is to do before the search is at its end. Nothing is run."""
    by_hand, tried = baselines(candidates), {trial.choice for trial in history}
    done, prompts = len(proposals(history)), len(evaluator.prompts("search")[0])
    measures = done < settings.budget and measures_priors(settings)
    held_out = evaluator.evaluation_key("held_out")
    unverified = [
        label
        for label, choice in by_hand
        if choice != candidates.none_quantized
        and store.find_score(held_out, assignment_key(candidates.decode(choice))) is None
    ]
    return SearchWork(
        references=evaluator.undrawn("search"),
        sensitivities=prior_pictures(evaluator, candidates, store) if measures else 0.0,
        baselines=len(by_hand),
        baselines_done=sum(choice in tried for _, choice in by_hand),
        trials=settings.budget,
        trials_done=done,
        prompts=prompts,
        lists=min(NEAR + ANSWERS, settings.budget) + len(unverified),
        held_out=len(evaluator.prompts("held_out")[0]),
        held_out_references=evaluator.undrawn("held_out"),
    )


def _known_before(
    log: StudyLog,
    evaluator: Evaluator,
    store: Store,
    settings: SearchSettings,
    events: SearchEvents,
) -> list[Choice]:
    """The scored proposals, in order, of the study that the version before made of this search."""
    candidates = log.candidates
    name = study_name(evaluator, candidates, settings, proposals=EARLIER)
    if name not in study_names(store):
        return []
    try:
        earlier = read_log(store, name, candidates).history()
    except DamageError as error:
        events.noted(str(error).partition("; expected")[0])
        return []
    found = [t.choice for t in proposals(earlier) if isinstance(t, ScoredTrial)]
    log.keep_continued(name)
    events.noted(f"{name} of an earlier version is continued here: {len(found)} scored trials")
    return found


def _result(log: StudyLog, *, interrupted: bool) -> SearchResult:
    history = log.history()
    scored = [t for t in history if isinstance(t, ScoredTrial)]
    return SearchResult(
        study=log.name,
        trials=log.estimated(scored),
        damages=log.damages(scored),
        failures=tuple(reason for _, reason in log.failures()),
        interrupted=interrupted,
        stopped=tuple(t for t in history if isinstance(t, StoppedTrial)),
    )
