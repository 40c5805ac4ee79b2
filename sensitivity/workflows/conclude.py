"""How does a search end? One skip-list is chosen, verified on held-out prompts and described.

`conclude` takes the trials of a search, or of a study that is chosen from again, and gives a
`SearchOutcome`. `search.winner` has the rule of the choice, `search.to_recipe` the recipe.

    outcome = conclude(prepared, settings, constraints, result, scores, say)
    outcome.recipe.save("recipe.json")

No trial is proposed or scored here. Held-out pictures are generated through `scores`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sensitivity.errors import ConstraintError
from sensitivity.fidelity.score import Score
from sensitivity.latency import LatencyEstimate
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.front import Constraints
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import SearchResult
from sensitivity.search.settings import SearchSettings
from sensitivity.search.shortlist import front_of, plan_scores, trials_beside
from sensitivity.search.to_recipe import build_recipe
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Winner, choose_winner, compare, describe_unmet
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.progress import Say


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What a search found.

    An interrupted search has a front and no winner. So has the outcome that a ConstraintError
    carries; there `winner` is set if the held-out prompts, not the search prompts, ruled out all.

    Attributes:
        prepared: the model, its prices and its candidates.
        result: the trials.
        front: the trials that no other beats on both seconds and LPIPS, fastest first.
        chosen: the trial that was named.
        held_out: {trial index: held-out score} of the trials that were verified.
        estimate: the price of the chosen skip-list.
        recipe: the chosen skip-list as a recipe.
        winner: how it was chosen.
    """

    prepared: Prepared
    result: SearchResult
    front: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None = None
    held_out: Mapping[int, Score] = field(default_factory=dict)
    estimate: LatencyEstimate | None = None
    recipe: Recipe | None = None
    winner: Winner | None = None


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
    """
    outcome = SearchOutcome(prepared=prepared, result=result, front=tuple(front_of(result.trials)))
    if result.interrupted or not result.trials:
        return outcome
    bf16_s = prepared.candidates.bf16_s
    try:
        say(scores.announce(plan_scores(result.trials, constraints, bf16_s=bf16_s)))
        winner = choose_winner(result.trials, constraints=constraints, bf16_s=bf16_s, score=scores)
        outcome = replace(outcome, winner=winner, held_out=winner.held_out)
        chosen = winner.chosen
        if chosen is None:
            raise ConstraintError(describe_unmet(winner, bf16_s=bf16_s))
        winner = compare(winner, trials_beside(result.trials), scores)
    except ConstraintError as error:
        error.outcome = outcome
        raise
    except KeyboardInterrupt:
        interrupted = replace(result, interrupted=True)
        return replace(outcome, winner=None, held_out={}, result=interrupted)
    formats = prepared.candidates.decode(chosen.choice)
    estimate = prepared.latency.estimate(prepared.priced, formats)
    recipe = build_recipe(
        prepared.evaluator, prepared.candidates, estimate, settings, result, winner
    )
    return replace(
        outcome,
        winner=winner,
        chosen=chosen,
        held_out=winner.held_out,
        estimate=estimate,
        recipe=recipe,
    )
