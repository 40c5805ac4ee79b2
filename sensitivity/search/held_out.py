"""How do the winner and its rivals do on held-out prompts?

Their scores, and the recipe that reports them.

Held-out scores are facts of the database like all others: what is known is read, what is missing is
drawn and kept. `naming` says which skip-lists need one and which is named; beside the winner the
bounds, the rule of thumb and the front's answers to it are scored. The recipe's LPIPS is the
held-out one, with the interval that holds whichever of the shortlist was named, and the search's
own stands beside it; so do detail, motion and sound on the held-out prompts.

    scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates)
    naming = name_winner(result.trials, constraints=constraints, bf16_s=candidates.bf16_s, score=scores)
    recipe = build_recipe(evaluator, candidates, estimate, settings, result, naming)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator, Split
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial


@dataclass(kw_only=True)
class HeldOutScores:
    """Held-out scores of trials: read from the store where they are known, drawn and kept there
    where not and `draw` allows it.

    `progress(pictures done, pictures in all)`; `expected` is how many pictures are to be drawn as
    far as is known.
    """

    evaluator: Evaluator
    store: Store
    candidates: Candidates
    draw: bool = True
    progress: Callable[[int, int], None] = lambda _done, _total: None
    drawn: int = field(default=0, init=False)
    expected: int = field(default=0, init=False)

    def find(self, trial: ScoredTrial) -> Score | None:
        """The score if it is known."""
        known = self.store.find_score(
            self.evaluator.evaluation_key("held_out"),
            assignment_key(self.candidates.decode(trial.choice)),
        )
        return None if known is None else self.evaluator.judged(known)

    def announce(self, trials: Sequence[ScoredTrial]) -> str:
        """How many of these are known and how many pictures the others take, in words; progress
        counts these from now on.
        """
        prompts, missing = (
            len(self.evaluator.prompts("held_out")[0]),
            sum(self.find(t) is None for t in trials),
        )
        self.expected = missing * prompts
        text = (
            f"verifying {len(trials)} skip-lists on {prompts} held-out prompts:"
            f" {len(trials) - missing} scores are known"
        )
        if self.draw:
            return f"{text}, {missing} to draw ({self.expected} pictures)"
        return f"{text}, {missing} are passed over (--no-verify draws none)"

    def __call__(self, trial: ScoredTrial) -> Score | None:
        """The score, drawn if need be; None where it is not known and nothing is to be drawn."""
        known = self.find(trial)
        if known is not None or not self.draw:
            return known
        before, each = self.drawn, len(self.evaluator.prompts("held_out")[0])
        total = max(self.expected, before + each)
        score = known_or_scored(
            self.evaluator,
            self.store,
            self.candidates.decode(trial.choice),
            "held_out",
            lambda done: self.progress(before + done, total),
        )
        self.drawn = before + each
        self.progress(self.drawn, total)
        return score


@overload
def known_or_scored(
    evaluator: Evaluator,
    store: Store,
    formats: dict[str, FormatName],
    split: Split,
    pictures: Callable[[int], Any],
) -> Score: ...


@overload
def known_or_scored(
    evaluator: Evaluator,
    store: Store,
    formats: dict[str, FormatName],
    split: Split,
    pictures: Callable[[int], Any],
    *,
    keep_going: Callable[[tuple[float, ...]], bool] | None,
) -> Score | PartialScore: ...


def known_or_scored(
    evaluator: Evaluator,
    store: Store,
    formats: dict[str, FormatName],
    split: Split,
    pictures: Callable[[int], Any],
    *,
    keep_going: Callable[[tuple[float, ...]], bool] | None = None,
) -> Score | PartialScore:
    """The score of an assignment on a split: from the store where it is known, else made and kept
    there. What `keep_going` ended is not kept: it is no score.
    """
    evaluation, assignment = evaluator.evaluation_key(split), assignment_key(formats)
    known = store.find_score(evaluation, assignment)
    if known is not None:
        return evaluator.judged(known)
    begun = time.monotonic()
    score = evaluator.score(formats, split, after_batch=pictures, keep_going=keep_going)
    if isinstance(score, Score):
        store.save_score(evaluation, assignment, score, seconds=time.monotonic() - begun)
    return score
