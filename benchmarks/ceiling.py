"""How good can a front of n points be? The ceiling that searches are compared with.

Nobody knows the best skip-lists of a model. But damages that are fitted to thousands of scored
lists are as good an additive model as there can be, and the knapsack on them is solved exactly. So
the ceiling of n points is the front of n such lists with the largest hypervolume that the fit
foresees. What counts are scores of these lists on prompts that neither chose nor fitted anything.

    table = read_table(Path("runs/table-tiny-flux"))
    fit = fit_damages(features, typical)                     # features (n, D), typical (n,)
    front = front_of_table(table)                            # 200 lists, and the best n of them

    python benchmarks/ceiling.py --table runs/table-tiny-flux

Model. log typical = log link(sum of damages of what is quantized), link(x) = x / (1 + x / most): it
is additive where damages are small, and saturates at `most`. Damages and `most` are fitted by least
squares of the logarithms (L-BFGS), with a mild pull of each damage to the size of all.

Uncertainty. Of the prompts: the judging prompts are drawn again with replacement (`DRAWS` times),
and the hypervolume of the same lists is computed again. Of the fit: damages are fitted to each half
of the lists; what the lists of one half lose, by the other half's fit, against its own. From the
first follows how many prompts a comparison needs: the standard deviation falls with their root.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measures import (
    Array,
    Corner,
    best_subset,
    front_of,
    hypervolume_of,
    typical_of,
)
from numpy.typing import NDArray
from scipy.optimize import minimize
from table_files import Table, read_table

from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.knapsack import Knapsack

KEPT = "ceiling.json"
COUNTS = (5, 10, 20, 45, 50)
"""Points of a front."""
SPEEDUPS = (1.2, 1.3, 1.4)
SAVINGS = 200
DRAWS = 400
PULL = 0.05
"""A first weight of a damage's pull to the size of all; a list's squared error has the weight 1."""
AIM = 0.005
"""The noise of a measured hypervolume that is allowed."""


@dataclass(frozen=True)
class Fit:
    """Damages fitted to scored lists.

    Attributes:
        items: the D (group, option) pairs.
        damages: (D,) each above 0.
        most: where the sum saturates; infinite where it does not.
        missed: standard deviation of log(typical / fitted).
    """

    items: tuple[tuple[int, int], ...]
    damages: Array
    most: float
    missed: float

    def typical(self, features: Array) -> Array:
        """(n,) typical damage of lists, features (n, D)."""
        return link(features @ self.damages, self.most)


@dataclass(frozen=True)
class Front:
    """Lists of the ceiling.

    Attributes:
        choices: the lists, the fastest first.
        points: (m, 2) seconds, and the typical damage that the fit foresees.
        best: {n: indices of the n lists with most hypervolume}.
        at: {speedup: index of the list of least damage that is so fast}.
    """

    choices: tuple[Choice, ...]
    points: Array
    best: dict[int, NDArray[np.int64]]
    at: dict[float, int]


def link(total: Array, most: float) -> Array:
    """Typical damage of a sum of damages: the sum itself where it is small, `most` at the end."""
    return np.asarray(total / (1 + total / most))


def items_of(candidates: Candidates) -> tuple[tuple[int, int], ...]:
    """The (group, option) pairs that a list may take, bf16 left out."""
    options = range(1, len(candidates.formats))
    return tuple(
        (g, o) for g, group in enumerate(candidates.groups) for o in options if group.members[o]
    )


def features_of(items: Sequence[tuple[int, int]], choices: Any) -> Array:
    """(n, D) 1 where a list takes the item."""
    group, option = np.array(items).T
    return np.asarray(np.asarray(choices)[:, group] == option, dtype=np.float64)


def fit_damages(items: Sequence[tuple[int, int]], choices: Any, typical: Array) -> Fit:
    """The damages under which the lists' typical damage is likeliest; lists of 0 are left out.

    How strongly a damage is pulled to the size of all follows from a first fit: the variance of
    what it missed over that of the damages.
    """
    features = features_of(items, choices)
    used = (typical > 0) & features.any(1)
    features, target = features[used], np.log(typical[used])
    highest = float(target.max()) + 1.0
    values = np.append(np.full(len(items), np.median(target - np.log(features.sum(1)))), highest)
    pull = PULL
    for _ in range(2):
        values = _likeliest(features, target, values, highest, pull)
        damages, most = np.exp(values[:-1]), float(np.exp(values[-1]))
        missed = float(np.std(np.log(link(features @ damages, most)) - target))
        pull = max(missed**2, 1e-6) / max(float(values[:-1].var()), 1e-3)
    return Fit(tuple(items), damages, most, missed)


def _likeliest(features: Array, target: Array, start: Array, highest: float, pull: float) -> Array:
    """(D + 1,) logarithms of damages and of `most`."""

    def loss(values: Array) -> tuple[float, Array]:
        damages, log_most = np.exp(values[:-1]), values[-1]
        total = features @ damages
        bent = total * np.exp(-log_most)
        wrong = np.log(total) - np.log1p(bent) - target
        pulled = values[:-1] - values[:-1].mean()
        gradient = np.append(
            (features.T @ (wrong / (1 + bent) / total)) * damages + pull * pulled,
            (wrong * bent / (1 + bent)).sum() + 0.01 * (log_most - highest),
        )
        bend = 0.01 * (log_most - highest) ** 2
        return 0.5 * float((wrong**2).sum() + pull * (pulled**2).sum() + bend), gradient

    options = {"maxiter": 2000, "maxfun": 4000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x)


def front_by(fit: Fit, candidates: Candidates, corner: Corner, *, savings: int = SAVINGS) -> Front:
    """Knapsacks on the fitted damages, over the whole range of savings, and the best n of them."""
    options = range(len(candidates.formats))
    allowed = np.array([[not o or bool(g.members[o]) for o in options] for g in candidates.groups])
    knapsack = Knapsack(np.array([group.gains_s for group in candidates.groups]), allowed)
    table = np.zeros(knapsack.gains.shape)
    for (group, option), damage in zip(fit.items, fit.damages, strict=True):
        table[group, option] = damage
    curve = knapsack.curve(table, points=savings)
    wanted = {
        speedup: candidates.bf16_s * (1 - 1 / speedup)
        for speedup in SPEEDUPS
        if candidates.bf16_s * (1 - 1 / speedup) < knapsack.most_gain
    }
    even = knapsack.most_gain * np.arange(1, savings + 1) / savings
    choices = {tuple(map(int, choice)): None for choice in curve.choices if choice.any()}
    for gain in (*even, *wanted.values()):
        choices[tuple(map(int, knapsack.solve(table, float(gain) * (1 - 1e-9))))] = None
    listed = list(choices)
    typical = fit.typical(features_of(fit.items, listed))
    points = np.column_stack([[candidates.latency_s(choice) for choice in listed], typical])
    order = front_of(points)
    listed, points = [listed[i] for i in order], points[order]
    at = {}
    for speedup in wanted:
        fast = np.flatnonzero(points[:, 0] <= candidates.bf16_s / speedup * (1 + 1e-9))
        at[speedup] = int(fast[points[fast, 1].argmin()])
    best = {count: best_subset(points, count, corner) for count in COUNTS}
    return Front(tuple(listed), points, best, at)


def corner_of(table: Table, values: Array) -> Corner:
    """(bf16's seconds, 1.5 times the rule of thumb's damage), values (n,) of the table's lists."""
    candidates = table.world.candidates
    by_hand = candidates.canonical(candidates.rule_of_thumb)
    same = np.flatnonzero((table.choices == np.array(by_hand)).all(1))
    highest = float(values[same[0]]) if len(same) else float(np.median(values))
    return candidates.bf16_s, 1.5 * highest


def front_of_table(table: Table, kept: NDArray[np.int64] | None = None) -> Front:
    """The ceiling's lists by a fit to the fitting prompts of the table (of some lists: `kept`).

    Lists that are themselves of a ceiling are not fitted to.
    """
    candidates, items = table.world.candidates, items_of(table.world.candidates)
    typical = typical_of(table.fitting, table.floor)
    ours = np.flatnonzero(np.array(table.kinds) != "ceiling") if kept is None else kept
    fit = fit_damages(items, table.choices[ours], typical[ours])
    return front_by(fit, candidates, corner_of(table, typical), savings=SAVINGS)


def kept_front(path: Path, make: Callable[[], Front]) -> Front:
    """The ceiling's lists in a file, made and written where it is missing.

    A table that grows has another best fit. The lists that were scored stay those of the file.
    """
    if not path.exists():
        front = make()
        described = {
            "choices": front.choices,
            "points": front.points.tolist(),
            "best": {count: best.tolist() for count, best in front.best.items()},
            "at": front.at,
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(described))
        partial.rename(path)
    kept = json.loads(path.read_text())
    return Front(
        tuple(map(tuple, kept["choices"])),
        np.array(kept["points"]),
        {int(count): np.array(best) for count, best in kept["best"].items()},
        {float(speedup): at for speedup, at in kept["at"].items()},
    )


def lists_to_score(front: Front, candidates: Candidates) -> list[Choice]:
    """Lists of the ceiling whose scores are needed: the best n of each n, those at `SPEEDUPS`."""
    wanted = {i for best in front.best.values() for i in best.tolist()} | set(front.at.values())
    return [candidates.canonical(front.choices[i]) for i in sorted(wanted)]


def measure(table: Table, front: Front) -> dict[str, Any]:
    """The ceiling on the judging prompts, with its uncertainty; what is not scored is foreseen."""
    candidates = table.world.candidates
    known = {tuple(choice): i for i, choice in enumerate(table.choices.tolist())}
    scored = [known.get(choice) for choice in front.choices]
    rng = np.random.default_rng(0)
    prompts = table.judging.shape[1]
    draws = [np.arange(prompts), *(rng.integers(prompts, size=prompts) for _ in range(DRAWS))]
    answer: dict[str, Any] = {"lists": len(table.choices), "judging_prompts": prompts}
    measures = {"typical": lambda t: typical_of(t, table.floor), "mean": lambda t: t.mean(-1)}
    for name, statistic in measures.items():
        volumes: dict[int, list[float]] = {}
        for count, chosen in front.best.items():
            rows = [scored[i] for i in chosen]
            if any(row is None for row in rows):
                continue
            for draw in draws:
                judged = statistic(table.judging[:, draw])
                corner = corner_of(table, judged)
                points = np.column_stack([front.points[chosen, 0], judged[rows]])
                volumes.setdefault(count, []).append(
                    hypervolume_of(points, corner) / (corner[0] * corner[1])
                )
        answer[name] = _summary(volumes, prompts)
        judged = statistic(table.judging)
        answer[name]["damage_at"] = {
            str(speedup): float(judged[scored[i]])
            for speedup, i in front.at.items()
            if scored[i] is not None
        }
    answer["foreseen"] = foreseen(front, corner_of(table, typical_of(table.fitting, table.floor)))
    answer["half_fits_lose"] = _lost_by_halves(table)
    answer["speedups"] = {
        str(s): candidates.bf16_s / front.points[i, 0] for s, i in front.at.items()
    }
    return answer


def foreseen(front: Front, corner: Corner) -> dict[str, float]:
    """Hypervolume of n points relative to that of all lists of the ceiling, as the fit has it."""
    whole = hypervolume_of(front.points, corner)
    return {
        str(count): hypervolume_of(front.points[best], corner) / whole
        for count, best in front.best.items()
    }


def _summary(volumes: dict[int, list[float]], prompts: int) -> dict[str, Any]:
    """Each n: hypervolume as a part of the rectangle, 95 % interval, noise, prompts needed."""
    answer: dict[str, Any] = {}
    most = max(volumes, default=0)
    for count, values in volumes.items():
        drawn = np.array(values[1:])
        ratio = drawn / np.array(volumes[most][1:])
        answer[str(count)] = {
            "hypervolume": values[0],
            "ci95": np.quantile(drawn, [0.025, 0.975]).tolist(),
            "relative": values[0] / volumes[most][0],
            "relative_ci95": np.quantile(ratio, [0.025, 0.975]).tolist(),
            "noise": float(drawn.std() / values[0]),
            "paired_noise": float(ratio.std()),
            "prompts_needed": int(np.ceil(prompts * (float(ratio.std()) / AIM) ** 2)),
        }
    return answer


def _lost_by_halves(table: Table) -> float:
    """What the lists of a fit to half of the table lose against those of the other half, by the
    other half's fit: an upper bound of what the whole fit loses.
    """
    items, candidates = items_of(table.world.candidates), table.world.candidates
    typical = typical_of(table.fitting, table.floor)
    corner = corner_of(table, typical)
    kept = np.flatnonzero(np.array(table.kinds) != "ceiling")
    halves = [kept[::2], kept[1::2]]
    fits = [fit_damages(items, table.choices[half], typical[half]) for half in halves]
    fronts = [front_by(fit, candidates, corner, savings=SAVINGS) for fit in fits]
    lost = []
    for judge, other in ((0, 1), (1, 0)):
        own = hypervolume_of(fronts[judge].points, corner)
        seen = fits[judge].typical(features_of(items, fronts[other].choices))
        points = np.column_stack([fronts[other].points[:, 0], seen])
        lost.append(1 - hypervolume_of(points, corner) / own)
    return float(np.mean(lost))


def main() -> None:
    """Fit, measure, say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="folder of score_tables.py")
    folder = parser.parse_args().table
    table = read_table(folder)
    kept = folder / KEPT
    front = kept_front(kept, lambda: front_of_table(table)) if kept.exists() else None
    answer = measure(table, front or front_of_table(table))
    print(f"{table.model}: {answer['lists']} lists, machine {table.machine.get('device')}")
    print(f"lists of a fit to half of the table lose {answer['half_fits_lose']:.4f} at most")
    print(f"foreseen, of all: { {n: round(v, 3) for n, v in answer['foreseen'].items()} }")
    for name in ("typical", "mean"):
        print(f"\n{name}: hypervolume on {answer['judging_prompts']} prompts that fitted nothing")
        print(f"{'points':>8}{'of the rectangle':>28}{'of the largest':>28}{'prompts needed':>16}")
        for count, row in answer[name].items():
            if count == "damage_at":
                continue
            cells = (
                f"{row[key]:.3f} [{row[ci][0]:.3f}, {row[ci][1]:.3f}]"
                for key, ci in (("hypervolume", "ci95"), ("relative", "relative_ci95"))
            )
            print(
                f"{count:>8}"
                + "".join(f"{cell:>28}" for cell in cells)
                + f"{row['prompts_needed']:>16}"
            )
        print(f"  at speedups: {answer[name]['damage_at']}")
    machine = {"model": table.model, "machine": table.machine}
    print(json.dumps({"benchmark": "ceiling", **machine, "results": answer}, default=str))


if __name__ == "__main__":
    main()
