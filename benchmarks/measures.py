"""How good is a front? Hypervolume, the best n of its points, and the damage at a given speedup.

    corner = (bf16_s, 1.5 * rule_of_thumb)
    hypervolume_of(points, corner)          # points: (n, 2), seconds and damage
    best_subset(points, 10, corner)         # indices of the 10 with most hypervolume
    damage_at(points, 1.3, bf16_s)          # least damage of those that are 1.3 times as fast

Damages are typical (geometric means over prompts) or means; less is better of both axes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
Corner = tuple[float, float]
LEAST = 1e-6
"""A floor under LPIPS where none was measured."""


def typical_of(values: ArrayLike, floor: float) -> Array:
    """Geometric means over the last axis, (..., prompts) -> (...), shifted by the noise floor.

    0 where every value is 0.
    """
    table, shift = np.asarray(values, dtype=np.float64), max(floor, LEAST)
    shifted = np.maximum(np.exp(np.log(table + shift).mean(-1)) - shift, 0.0)
    return np.where(table.any(-1), shifted, 0.0)


def hypervolume_of(points: ArrayLike, corner: Corner) -> float:
    """Area (seconds x damage) that the points dominate, up to the corner."""
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    area, least = 0.0, corner[1]
    for seconds, damage in table[np.lexsort((table[:, 1], table[:, 0]))]:
        if seconds < corner[0] and damage < least:
            area += (corner[0] - seconds) * (least - damage)
            least = damage
    return area


def front_of(points: ArrayLike) -> NDArray[np.int64]:
    """Indices of the points that no other dominates, the fastest first."""
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    kept, least = [], np.inf
    for i in np.lexsort((table[:, 1], table[:, 0])):
        if table[i, 1] < least:
            kept.append(i)
            least = table[i, 1]
    return np.array(kept, dtype=np.int64)


def best_subset(points: ArrayLike, count: int, corner: Corner) -> NDArray[np.int64]:
    """Indices of the `count` points that dominate the largest area together, exactly.

    Fewer where the front has fewer points. In two dimensions the area is a sum over neighbours, so
    it is maximised by dynamic programming (Auger et al. 2009, "Investigating and exploiting the
    bias of the weighted hypervolume to articulate user preferences").
    """
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    inside = np.flatnonzero((table < np.array(corner)).all(1))
    order = inside[front_of(table[inside])]
    if len(order) <= count:
        return order
    seconds, damage = table[order].T  # seconds rise, damages fall
    width = corner[0] - seconds
    area = width * (corner[1] - damage)  # (m,) of the best sets that end with each point
    came: list[NDArray[np.int64]] = []
    step = width[None, :] * (damage[:, None] - damage[None, :])  # (before, after)
    step[np.tril_indices(len(order))] = -np.inf
    for _ in range(count - 1):
        total = area[:, None] + step
        came.append(total.argmax(0))
        area = total.max(0)
    last = int(area.argmax())
    chosen = [last]
    for before in reversed(came):
        chosen.append(int(before[chosen[-1]]))
    return order[np.array(chosen[::-1])]


def damage_at(points: ArrayLike, speedup: float, bf16_s: float) -> float:
    """Least damage of the points that are at least so many times as fast; NaN where none is."""
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    fast = table[table[:, 0] <= bf16_s / speedup * (1 + 1e-9), 1]
    return float(fast.min()) if len(fast) else float("nan")


def student_interval(values: Sequence[float]) -> list[float]:
    """95 % Student interval of the mean; the values' mean twice where there is one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean, mean]
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return [mean - half, mean + half]
