"""What is the mean damage of a skip-list whose typical damage is known? `MeanCurve`.

    curve = MeanCurve.fit([trial.score.damages for trial in trials], floor)
    curve.mean(0.009)                                   # 0.0151
    curve.mean_interval(held_out.damages, floor)        # (0.0151, 0.0081, 0.0281)
    MeanCurve(**asdict(curve)) == curve                 # four numbers

People compare mean LPIPS, and a mean over a few prompts is mostly luck: the prompts that became
another picture rule it. What a skip-list's mean has beyond its typical damage (`typical`) is that
luck, and says next to nothing about other prompts. So the mean is read from the typical damage by
one smooth curve, which all skip-lists of a study share:

    log(mean / typical) = log_ratio + slope * log(typical / at), at least 0

Fit. Bayesian linear regression (Bishop 2006, "Pattern Recognition and Machine Learning", section
3.3) of each trial's log(mean over its prompts / typical). The logarithm of a mean is too small by
half its relative variance, which is added. All trials see the same few prompts, so what the curve
is uncertain about is the prompts, however many trials there are. A prompt's influence on a
log(mean / typical) is x / mean - 1 - (log x - mean log x). Its mean over the trials varies from
prompt to prompt, and that variance, divided by the number of prompts, is the variance of the
regression as a whole.

Before the tail is seen. Ten prompts say little of a tail in which one picture of fifty flips, but
they do say how far logarithms scatter over prompts: by a variance s^2. If damages were lognormal,
log(mean / typical) would be s^2 / 2, and the influence of a prompt would have the variance
exp(s^2) - 1 - s^2. Rare flips add to both. So the prior is `RATIO` times the one, with `SHARE` of
it uncertain, and `TAIL` times the other and `RARE`, which `WORTH` prompts say. On four trained
models s^2 / 2 was 0.02 to 0.56, and log(mean / typical) 0.85 to 1.2 times that.
`benchmarks/interval_coverage.py` measures how often the intervals hold. With a tail that the search
prompts do not show at all, such as 1 prompt in 25 that flips under every skip-list, they hold less
often.

Intervals. That of the typical damage and that of the curve, added in quadrature as logarithms, and
widened to the average of the own prompts where that lies outside: a flip that the curve did not
expect. So they follow from a skip-list's own values and the four numbers of the curve.

This module computes with numbers only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.fidelity.typical import log_damages, student_half_width, typical

HALF = 0.5
"""Half the variance of a prompt's logarithm where nothing, or one prompt, was seen."""
RATIO, SHARE, LEAST = 1.2, 0.6, 0.02
"""Prior of log_ratio, as a part of `half`; its standard deviation as a part of that, and at least,
which is also that of skip-lists around the curve.
"""
SLOPE = -1 / 6
"""Prior of the slope, of `half`, and half of it uncertain: mean / typical falls with damage."""
AT = 0.01
"""`MeanCurve.at` where there are no trials."""
TAIL, RARE, WORTH = 1.5, 1.0, 12
"""Variance of a prompt's influence before its tail is seen: of a lognormal one, and of rare flips;
and the prompts that this counts as.
"""
MOST = 3.0
"""Variance of a trial's logarithms, at most: one flip among damages near 0 has more than 9."""
ABOVE_FLOOR = 3
"""Noise floors that a typical damage must reach for its prompts' scatter to count."""
ERRORS = 2
"""Standard errors of the curve that 95 % intervals contain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanCurve:
    """From typical to mean damage (see the module).

    Attributes:
        at: the geometric mean of the trials' typical damages, above 0.
        log_ratio: log(mean / typical) there.
        slope: by how much it changes with log(typical).
        error: standard error of log(mean / typical).
    """

    at: float
    log_ratio: float
    slope: float
    error: float

    @classmethod
    def fit(cls, rows: Sequence[ArrayLike], floor: float | None) -> "MeanCurve":
        """The curve of a study's trials; what is known before anything is seen if there are none.

        Args:
            rows: (T, N) damages of T trials over the same N prompts, at least 0. Trials of bf16
                itself (all 0) say nothing, and are passed over.
            floor: the noise floor of damage; None: not measured.
        """
        kept = [row for row in rows if typical(row, floor) > 0]
        half = _half_variance(kept, floor)
        found, at = np.array([RATIO * half, SLOPE * half]), AT
        precision = np.diag(1 / np.maximum(np.abs(found) * SHARE, LEAST) ** 2)
        if kept:
            typicals = np.array([typical(row, floor) for row in kept])  # (T,)
            at = float(np.exp(np.log(typicals).mean()))
            damages = np.array(kept, dtype=np.float64)
            before = RARE + TAIL * (math.expm1(2 * half) - 2 * half)
            log_ratios, variance = _log_ratios(damages, typicals, floor, before)
            design = np.stack([np.ones(len(kept)), np.log(typicals / at)])  # (2, T)
            score = precision @ found + design @ log_ratios / variance / len(kept)
            precision = precision + design @ design.T / variance / len(kept)
            found = np.linalg.solve(precision, score)
        error = math.hypot(math.sqrt(np.linalg.inv(precision)[0, 0]), LEAST)
        return cls(at=at, log_ratio=float(found[0]), slope=float(found[1]), error=error)

    def mean(self, typical: float) -> float:
        """The mean damage that goes with a typical damage; 0 for 0."""
        if typical <= 0:
            return 0.0
        log_ratio = self.log_ratio + self.slope * math.log(typical / self.at)
        return typical * math.exp(max(log_ratio, 0.0))

    def mean_interval(self, values: ArrayLike, floor: float | None) -> tuple[float, float, float]:
        """(mean, low, high) of a skip-list, a 95 % interval; 0 where all damages are 0.

        Args:
            values: (N,) damages of its prompts, at least 0; any prompts of the model.
            floor: as in `fit`.
        """
        mean = self.mean(typical(values, floor))
        own = student_half_width(log_damages(values, floor))
        factor = math.exp(math.hypot(own, ERRORS * self.error))
        average = float(np.asarray(values, dtype=np.float64).mean())
        return mean, min(mean / factor, average), max(mean * factor, average)


def _half_variance(rows: Sequence[ArrayLike], floor: float | None) -> float:
    """Half the variance of logarithms over prompts. Mean over trials of (T, N) damages, of which
    none counts more than `MOST`; `HALF` where it is unknown.
    """
    clear = [row for row in rows if typical(row, floor) > ABOVE_FLOOR * (floor or 0.0)]
    logs = [log_damages(row, floor) for row in clear]
    known = [np.var(row, ddof=1) for row in logs if len(row) > 1]
    return float(np.minimum(known, MOST).mean()) / 2 if known else HALF


def _log_ratios(
    damages: NDArray[np.float64],
    typicals: NDArray[np.float64],
    floor: float | None,
    before: float,
) -> tuple[NDArray[np.float64], float]:
    """(T,) log(mean / typical) of each row, and the variance of their common error.

    damages: (T, N); typicals: (T,); before: a prompt's variance before its tail is seen.
    """
    prompts, means = damages.shape[1], damages.mean(1)
    excess = damages / means[:, None] - 1  # (T, N)
    log_ratios = np.log(means / typicals) + (excess**2).mean(1) / (2 * prompts)
    logs = log_damages(damages, floor)
    influence = (excess - logs + logs.mean(1, keepdims=True)).mean(0)  # (N,), sums to 0
    variance = (before * WORTH + (influence**2).sum()) / (WORTH + prompts - 1)
    return log_ratios, float(variance / prompts)
