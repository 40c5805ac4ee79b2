"""What tests of whole searches share: a scorer that generates nothing, and what a trial keeps."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.score import Score
from sensitivity.search.trials import ScoredTrial

BASELINES, BUDGET = 3, 3
NVFP4 = (FormatName.NVFP4,)


def essence(trials: tuple[ScoredTrial, ...]) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions: everything of a trial except how long it took."""
    return [(t.index, t.choice, t.label, t.latency_s, t.score) for t in trials]


class Scorer:
    """Stands in for `Evaluator.score` and generates nothing.

    LPIPS is the share of quantized Linears. It records what it is asked for, and fails where
    `fails(call)` gives an error.
    """

    def __init__(self, fails: Callable[[int], BaseException | None] = lambda _call: None) -> None:
        self.fails = fails
        self.asked: list[tuple[tuple[str, str], ...]] = []

    def __call__(
        self, formats: dict[str, FormatName], _split: str, *, keep_going: Any = None, **_more: Any
    ) -> Score:
        """A score without a picture."""
        assert keep_going is None, "a study without chunks looks at no trial"
        self.asked.append(
            tuple(
                sorted(
                    (fqn, str(name)) for fqn, name in formats.items() if name is not FormatName.BF16
                )
            )
        )
        error = self.fails(len(self.asked))
        if error is not None:
            raise error
        mean = len(self.asked[-1]) / len(formats)
        return Score(net="tiny", mean=mean, per_prompt=(mean,), noise_floor=None)


def states_of(database: Path) -> list[str]:
    """The states of all trials in a database, in order, read without any of our code."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("SELECT state FROM trials ORDER BY number")]
