"""Which of the scored skip-lists are worth having, and which one is it? Pareto front, hypervolume and selection.

Both axes are minimised: seconds and LPIPS. A point is on the front if no other point is at most as large on both and smaller on one. Selection is by
constraint, never by a weighted sum: the fastest with LPIPS at most x, the best LPIPS with a speedup of at least y, or the knee.

    front = pareto_front(points)
    choose(points, bf16_s=2.1, max_lpips=0.15, min_speedup=None)
"""

from collections.abc import Sequence

import moocore
import numpy as np

from sensitivity.errors import UserError

Point = tuple[float, float]  # (seconds, LPIPS)


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, fastest first; of equal points the first stays."""
    if not points:
        return []
    array = np.asarray(points, dtype=np.float64)
    keep = np.flatnonzero(moocore.is_nondominated(array, maximise=False, keep_weakly=False))
    return sorted((int(i) for i in keep), key=lambda i: points[i])


def hypervolume(points: Sequence[Point], *, reference: Point) -> float:
    """Area that the points dominate up to the reference point (seconds x LPIPS); 0 without points."""
    if not points:
        return 0.0
    return float(moocore.hypervolume(np.asarray(points, dtype=np.float64), ref=np.asarray(reference, dtype=np.float64)))


def knee(points: Sequence[Point]) -> int:
    """Index into a front (fastest first) of the point farthest below the straight line between its two ends, axes scaled to the ends.

    With two points or fewer, or a front that nowhere bends below that line, it is the point with the lowest LPIPS among the faster half.
    Source: the chord distance of Das 1999, "On characterizing the 'knee' of the Pareto curve".
    """
    array = np.asarray(points, dtype=np.float64)
    span = array.max(0) - array.min(0)
    if len(points) > 2 and (span > 0).all():
        x, y = ((array - array.min(0)) / span).T
        below = 1 - x - y  # the line runs from (0, 1), fastest, to (1, 0), best LPIPS
        if below.max() > 1e-9:
            return int(below.argmax())
    return (len(points) - 1) // 2


def choose(points: Sequence[Point], *, bf16_s: float, max_lpips: float | None, min_speedup: float | None) -> int:
    """Index of the chosen point among `points`: the fastest with LPIPS <= max_lpips, the best LPIPS with speedup >= min_speedup, else the knee.

    With both constraints: the fastest that meets both.

    Raises:
        UserError: no point meets the constraints; the message says how near the front comes.
    """
    front = pareto_front(points)
    meets = [
        i
        for i in front
        if (max_lpips is None or points[i][1] <= max_lpips) and (min_speedup is None or bf16_s / points[i][0] >= min_speedup)
    ]
    if not meets:
        asked = [f"{what} {bound:g}" for what, bound in (("LPIPS <=", max_lpips), ("speedup >=", min_speedup)) if bound is not None]
        fastest, best = points[front[0]], points[front[-1]]
        raise UserError(
            f"no scored skip-list has {' and '.join(asked)}; the front runs from {bf16_s / fastest[0]:.3f}x at LPIPS {fastest[1]:.4f} to "
            f"{bf16_s / best[0]:.3f}x at LPIPS {best[1]:.4f}: relax the constraint or raise --budget (the study is kept)"
        )
    if max_lpips is not None:
        return meets[0]
    if min_speedup is not None:
        return meets[-1]
    return front[knee([points[i] for i in front])]
