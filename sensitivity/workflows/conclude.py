"""How does a search end? One skip-list is chosen, verified on held-out prompts and described.

`conclude` takes the trials of a search, or of a study that is chosen from again, and gives a
`SearchOutcome`. `search.winner` has the rule of the choice, `search.to_recipe` the recipe.

    outcome = conclude(prepared, settings, constraints, result, scores, say)
    outcome.recipe.save("recipe.json")

Several workers call `verify_together` first, so that all of them draw. Then one concludes.

No trial is proposed or scored here. Held-out pictures are generated through `scores`. A skip-list
whose verification fails is passed over, and the next best is named. Nothing is named where every
quantized skip-list failed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from sensitivity.core.record_tables import RecordTable
from sensitivity.core.storage_url import Storage
from sensitivity.core.words import and_more
from sensitivity.errors import ConstraintError, MeasurementError
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.sharing import Alone
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.latency import LatencyEstimate
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.shown import short_words
from sensitivity.search.anchor import another_seed
from sensitivity.search.candidates import Candidates
from sensitivity.search.front import Constraints
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import SearchResult
from sensitivity.search.native_rounding import NativeRounding, native_rounding
from sensitivity.search.settings import SearchSettings
from sensitivity.search.shortlist import Contest, front_of
from sensitivity.search.to_recipe import build_recipe
from sensitivity.search.trials import ScoredTrial, Tried
from sensitivity.search.winner import Winner, choose_winner, compare, describe_unmet
from sensitivity.workflows.end_timing import EndTimes
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.progress import Say
from sensitivity.workflows.shown import of_interest, tried_table


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What a search found.

    An interrupted search has a front and no winner. So has the outcome that a ConstraintError
    carries; there `winner` is set if the held-out prompts, not the search prompts, ruled out all.

    Attributes:
        prepared: the model, its prices and its candidates.
        result: the trials.
        front: the trials that no other beats on both seconds and typical LPIPS, fastest first.
        rules: how scores are summarized.
        chosen: the trial that was named.
        held_out: {trial index: held-out score} of the trials that were verified.
        estimate: the price of the chosen skip-list.
        recipe: the chosen skip-list as a recipe.
        winner: how it was chosen.
        native_rounding: how far the roundings of a runtime move pictures; None is not known.
        unverified: {skip-list: why its verification failed}.
        times: what the winner and the lists beside it took end to end; None if they were not timed.
        untimed: why they were not, though the search was by measured latency.
        database: the file or the URL that the search is kept in; None where that is not known.
        concluded_by: the worker of the same study that chooses and verifies, if it is another one;
            then nothing is chosen here.
    """

    prepared: Prepared
    result: SearchResult
    front: tuple[ScoredTrial, ...]
    rules: SummaryRules
    chosen: ScoredTrial | None = None
    held_out: Mapping[int, Score] = field(default_factory=dict)
    estimate: LatencyEstimate | None = None
    recipe: Recipe | None = None
    winner: Winner | None = None
    native_rounding: NativeRounding | None = None
    unverified: Mapping[str, str] = field(default_factory=dict)
    times: EndTimes | None = None
    untimed: str = ""
    database: Storage | None = None
    concluded_by: str | None = None

    def __repr__(self) -> str:
        return f"SearchOutcome({self._words})"

    @property
    def _words(self) -> str:
        recipe, trials = self.recipe, len(self.result.trials)
        front = f"front of {len(self.front)} among {trials} lists"
        if recipe is None or self.chosen is None:
            return f"{self.result.study}: {front}, nothing chosen"
        words = short_words(recipe.assignment, recipe.latency, recipe.fidelity)
        return f"{self.chosen.name}: {words}; {front}"

    def _repr_html_(self) -> str:
        return replace(of_interest(self._table), title=self._words).to_html()

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each skip-list that was tried, the fastest first.

        Raises:
            UserError: pandas is not installed.
        """
        return self._table.to_pandas()

    @property
    def _table(self) -> RecordTable:
        return tried_table(
            self.result.trials,
            self.prepared.candidates,
            self.rules,
            self.held_out,
            front={trial.index for trial in self.front},
            chosen=None if self.chosen is None else self.chosen.index,
        )


def conclude(
    prepared: Prepared,
    settings: SearchSettings,
    constraints: Constraints,
    result: SearchResult,
    scores: HeldOutScores,
    say: Say,
) -> SearchOutcome:
    """Choose, verify and describe. An interrupted search keeps its front and names no winner.

    Args:
        prepared: the model that was searched.
        settings: what the search was asked for.
        constraints: the bounds on the winner.
        result: the trials.
        scores: held-out scores, known or made when asked for.
        say: called with what will be verified.

    Raises:
        ConstraintError: no skip-list keeps to the constraints; it carries the outcome without a
            winner.
        MeasurementError: every quantized skip-list failed, as a trial or when it was verified.
    """
    outcome = not_concluded(prepared, result)
    if result.interrupted:
        return outcome
    _check_any_ran(result, prepared.candidates)
    if not result.trials:
        return outcome
    bf16_s = prepared.candidates.bf16_s
    try:
        outcome = replace(outcome, rules=_rules(result.trials, scores, say))
        contest = Contest.of(result.trials, constraints, bf16_s=bf16_s, rules=outcome.rules)
        _draw_planned(contest, scores, say)
        winner = _choose(contest, scores)
        outcome = replace(outcome, winner=winner, held_out=winner.held_out)
        chosen = winner.chosen
        if chosen is None:
            raise ConstraintError(describe_unmet(winner, bf16_s=bf16_s))
        winner = compare(winner, contest.beside(), scores)
        floor = _second_floor(scores, say)
    except ConstraintError as error:
        error.outcome = outcome
        raise
    except KeyboardInterrupt:
        interrupted = replace(result, interrupted=True)
        return replace(outcome, winner=None, held_out={}, result=interrupted)
    outcome = replace(outcome, winner=winner, held_out=winner.held_out, native_rounding=floor)
    return _described(outcome, chosen, winner, settings, scores.failures)


def verify_together(
    prepared: Prepared,
    constraints: Constraints,
    result: SearchResult,
    scores: HeldOutScores,
    say: Say,
) -> None:
    """Draw the held-out pictures that `conclude` will ask for, with all workers that call this, and
    choose nothing. A worker by itself does nothing here.

    Args as for `conclude`. What stands in the way of a choice, such as that no skip-list keeps to
    the constraints, is left to `conclude` to say. Ctrl-C is raised.
    """
    evaluator = prepared.evaluator
    if result.interrupted or not result.trials or isinstance(evaluator.sharing, Alone):
        return
    with suppress(ConstraintError, MeasurementError):
        _check_any_ran(result, prepared.candidates)
        rules, bf16_s = _rules(result.trials, scores, say), prepared.candidates.bf16_s
        contest = Contest.of(result.trials, constraints, bf16_s=bf16_s, rules=rules)
        _draw_planned(contest, scores, say)


def _draw_planned(contest: Contest, scores: HeldOutScores, say: Say) -> None:
    """Say what the verification takes; where there are several workers, do it together.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
    """
    planned = contest.planned()
    scores.picture_s = _picture_s(contest.trials)
    (scores.announced or say)(scores.announce(planned))
    scores.draw_together(planned)


def not_concluded(prepared: Prepared, result: SearchResult, by: str | None = None) -> SearchOutcome:
    """The front of a search, and no winner: another worker chooses (`by`), or nobody yet."""
    return SearchOutcome(
        prepared=prepared,
        result=result,
        front=tuple(front_of(result.trials)),
        rules=SummaryRules.of([t.score for t in result.trials], another_seed=None),
        concluded_by=by,
    )


def _described(
    outcome: SearchOutcome,
    chosen: ScoredTrial,
    winner: Winner,
    settings: SearchSettings,
    failures: Mapping[int, str],
) -> SearchOutcome:
    """The outcome with its winner's price and recipe, and with what could not be verified."""
    prepared, result = outcome.prepared, outcome.result
    formats = prepared.candidates.decode(chosen.choice)
    estimate = prepared.latency.estimate(prepared.priced, formats)
    recipe = build_recipe(
        prepared.evaluator,
        prepared.candidates,
        estimate,
        settings,
        result,
        winner,
        outcome.native_rounding,
    )
    return replace(
        outcome,
        chosen=chosen,
        estimate=estimate,
        recipe=recipe,
        unverified={t.name: why for t in result.trials if (why := failures.get(t.index))},
    )


def _second_floor(scores: HeldOutScores, say: Say) -> NativeRounding | None:
    """Native rounding of the study, measured unless it is known."""
    return native_rounding(
        scores.evaluator, scores.store, scores.candidates, compute=scores.compute, say=say
    )


def _picture_s(trials: Sequence[ScoredTrial]) -> float:
    """Seconds of a picture, drawn and compared: the median over trials; 0 where none is known."""
    known = [t.seconds / len(t.score.per_prompt) for t in trials if t.label != "none"]
    return median(known) if known else 0.0


def _check_any_ran(result: SearchResult, candidates: Candidates) -> None:
    """Raise MeasurementError where trials failed and none that quantizes anything ran."""
    tried: list[Tried] = [*result.trials, *result.stopped]
    if result.failures and all(t.choice == candidates.none_quantized for t in tried):
        raise MeasurementError(
            f"all {result.failed} quantized trials failed ({_reasons(result.failures)}); expected"
            " at least one that runs: mend the cause and run the same search again, the study is"
            " kept"
        )


def _rules(trials: Sequence[ScoredTrial], scores: HeldOutScores, say: Say) -> SummaryRules:
    """How scores are summarized: the curve of these trials, and another seed as an anchor."""
    anchor = another_seed(scores.evaluator, scores.store, compute=scores.compute, say=say)
    return SummaryRules.of([t.score for t in trials], another_seed=anchor)


def _choose(contest: Contest, scores: HeldOutScores) -> Winner:
    """The winner. Where all that could win failed to be verified, the next best are asked, without
    those; bf16 does not stand in for them.

    Raises:
        ConstraintError: no trial keeps to the constraints on the search prompts.
        MeasurementError: all that keep to them failed.
    """
    none = scores.candidates.none_quantized
    winner = choose_winner(contest, score=scores)
    first, passed_over = winner.first, dict.fromkeys(winner.passed_over)
    while scores.failures and (
        not winner.shortlist
        or (winner.chosen is not None and winner.chosen.choice == none != first.choice)
    ):
        left = (t for t in contest.trials if t.index not in scores.failures and t.choice != none)
        contest = replace(contest, trials=tuple(left))
        try:
            contest.first_choice()
        except ConstraintError:
            raise MeasurementError(
                f"{len(scores.failures)} skip-lists failed when they were verified"
                f" ({_reasons(scores.failures.values())}), and no other quantized one can be"
                " chosen; expected at least one that runs on the held-out prompts: mend the cause"
                " and run the same command again, the scores are kept"
            ) from None
        winner = choose_winner(contest, score=scores)
        passed_over |= dict.fromkeys(winner.passed_over)
    return replace(winner, first=first, passed_over=tuple(passed_over))


def _reasons(failures: Iterable[str]) -> str:
    """Why trials failed, each reason once."""
    return and_more(dict.fromkeys(failures), most=3, separator="; ")
