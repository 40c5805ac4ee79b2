"""What do skip-lists score on held-out prompts? `HeldOutScores`: from the store, or computed.

Held-out scores are facts of the database like all others. A known score is read; a missing one is
computed, which generates pictures, and kept. `search.shortlist` says which trials need one,
`search.winner` chooses by them, and `search.to_recipe` reports them.

    scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates)
    winner = choose_winner(trials, constraints=constraints, bf16_s=bf16_s, score=scores)

`known_or_scored` does the same for any split; the search itself uses it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.fidelity.splits import Split
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial


@dataclass(kw_only=True)
class HeldOutScores:
    """Held-out scores of trials, known or computed.

    Attributes:
        evaluator: computes scores.
        store: keeps them.
        candidates: what the trials' choices mean.
        compute: whether missing scores are computed; else there is none.
        progress: called as progress(pictures done, pictures in all).
        generated: pictures so far.
        expected: pictures in all, as far as is known.
    """

    evaluator: Evaluator
    store: Store
    candidates: Candidates
    compute: bool = True
    progress: Callable[[int, int], None] = lambda _done, _total: None
    generated: int = field(default=0, init=False)
    expected: int = field(default=0, init=False)

    def find(self, trial: ScoredTrial) -> Score | None:
        """The score if it is known."""
        known = self.store.find_score(
            self.evaluator.evaluation_key("held_out"),
            assignment_key(self.candidates.decode(trial.choice)),
        )
        return None if known is None else self.evaluator.judged(known)

    def announce(self, trials: Sequence[ScoredTrial]) -> str:
        """How many scores are known and how many pictures the others take, in words.

        Progress counts these pictures from now on.
        """
        prompts = len(self.evaluator.prompts("held_out")[0])
        missing = sum(self.find(t) is None for t in trials)
        self.expected = missing * prompts
        text = (
            f"verifying {len(trials)} skip-lists on {prompts} held-out prompts:"
            f" {len(trials) - missing} scores are known"
        )
        if self.compute:
            return f"{text}, {missing} to compute ({self.expected} pictures)"
        return f"{text}, {missing} are passed over (`verify` is off)"

    def __call__(self, trial: ScoredTrial) -> Score | None:
        """The score, computed if need be; None where it is not known and `compute` is off."""
        known = self.find(trial)
        if known is not None or not self.compute:
            return known
        before, each = self.generated, len(self.evaluator.prompts("held_out")[0])
        total = max(self.expected, before + each)
        score = known_or_scored(
            self.evaluator,
            self.store,
            self.candidates.decode(trial.choice),
            "held_out",
            lambda done: self.progress(before + done, total),
        )
        self.generated = before + each
        self.progress(self.generated, total)
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
    """The score of an assignment on a split, from the store, else computed and kept.

    Args:
        evaluator: computes it.
        store: keeps it.
        formats: {FQN: format}.
        split: which prompts.
        pictures: called with the number of pictures done.
        keep_going: called with the damages so far; False ends the scoring. The result is then a
            PartialScore, which is not kept.
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
