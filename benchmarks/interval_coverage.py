"""Do stated 95 % intervals of typical, mean and ratio hold, and how wide are they?

Tables of scores with many prompts. The prompts are split at random, again and again: some are a
study's search prompts, some its held-out prompts, and all others say what is true.

    python benchmarks/interval_coverage.py runs/table-tiny-flux runs/table-other/rows0.jsonl
    python benchmarks/interval_coverage.py --simulate
    python benchmarks/interval_coverage.py runs/table-tiny-flux --search 10 --held-out 10 24

Tables. A file has one JSON object a line, one skip-list each, the same prompts in each. Damages of
prompts are in `per_prompt`, or in `search` and `fresh`, as `score_tables.py` writes them. `kind`
may name a list; other keys are passed over. A folder is all its `rows*.jsonl` together. The noise
floor is `floor` of the `world.json` beside them, else --floor; the machine that made a table is in
that file too. Lists of damage 0 are left out.
--simulate makes tables of its own (`SIMULATIONS`), with so many prompts that the truth is known.

A split. The curve from typical to mean is fitted to the search prompts of all lists. `AMONG` lists
that are neighbours in typical damage on the search prompts, as on a front, are stated from the
held-out prompts: one that was given before (a random one), and the one that looks best on them.
Ratios are to the rule of thumb, else to the first list. The tables show, for both, in which share
of the splits the truth was inside, in which it was above, and the median half width, as a factor:
x1.5 is a value times or divided by 1.5.

The truth has a standard error of its own, as it is estimated from the other prompts: that of their
mean logarithm, of the logarithm of their mean, of their mean log ratio. Half widths, as logarithms,
are widened by it in quadrature before they are checked, sqrt(half^2 + (1.96 error)^2), as a
difference of two independent estimates varies. The half widths that are shown are not widened.

"of its own": the interval that recipes of schema 1.2 state, of the mean of a list's own prompts,
mean * exp(+- t * error / mean), with t for six lists at once.

The last line is JSON.
"""

import argparse
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sensitivity.core.environment import describe_environment
from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.fidelity.typical import LEAST, log_damages, ratio, typical, typical_interval

AMONG = 6
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Table:
    """(lists, prompts) damages, their noise floor, and the list that ratios are to."""

    name: str
    damages: Array
    floor: float
    reference: int = 0


def read_table(path: Path, floor: float) -> Table:
    """The table of a file or folder; of rows that are the same list, the first counts."""
    files = sorted(path.glob("rows*.jsonl")) if path.is_dir() else [path]
    rows: dict[str, tuple[list[float], str]] = {}
    for line in (line for file in files for line in file.read_text().splitlines()):
        row = json.loads(line)
        values = row["per_prompt"] if "per_prompt" in row else [*row["search"], *row["fresh"]]
        key = json.dumps(row.get("choice", len(rows)))
        if any(values):
            rows.setdefault(key, (values, row.get("kind", "")))
    world = (path if path.is_dir() else path.parent) / "world.json"
    stated = json.loads(world.read_text()).get("floor") if world.exists() else None
    kinds = [kind for _, kind in rows.values()]
    return Table(
        name=path.name if path.is_dir() else path.stem,
        damages=np.array([values for values, _ in rows.values()]),
        floor=floor if stated is None else stated,
        reference=kinds.index("rule of thumb") if "rule of thumb" in kinds else 0,
    )


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Damages that are list x prompt x rest, lognormal, with flips.

    Attributes:
        search, held_out: prompts of a study.
        prompts, rest: standard deviations of logarithms.
        level: typical damage in the middle of the lists.
        flips: share of pictures that flip there; a tenth of the prompts has most of them.
        always: prompts that flip under every list.
        noise: mean of the noise that is added, exponential times what a prompt amplifies.
        lists, all_prompts: how many.
    """

    search: int = 10
    held_out: int = 24
    prompts: float = 0.85
    rest: float = 0.5
    level: float = 0.01
    flips: float = 0.0
    always: int = 0
    noise: float = 0.0
    lists: int = 60
    all_prompts: int = 4000

    def table(self, name: str, seed: int) -> Table:
        """A table of this kind."""
        rng, shape = np.random.default_rng(seed), (self.lists, self.all_prompts)
        lists = np.sort(rng.normal(math.log(self.level), 0.7, self.lists))[:, None]
        own = self.prompts * rng.normal(size=self.all_prompts)
        values = np.exp(lists + own + self.rest * rng.normal(size=shape))
        prone = np.where(rng.random(self.all_prompts) < 0.1, 7.0, 1 / 3)
        flips = rng.random(shape) < self.flips * np.exp(lists) / self.level * prone
        flips |= np.arange(self.all_prompts) < self.always
        values = np.where(flips, rng.uniform(0.15, 0.6, size=shape), np.minimum(values, 0.8))
        amplified = np.exp(own - self.prompts**2 / 2)
        noise = self.noise * amplified * rng.exponential(size=shape)
        return Table(name=name, damages=values + noise, floor=self.noise or 3.8e-5)


SIMULATIONS = {
    "lognormal": Simulation(),
    "lognormal, 10 held out": Simulation(held_out=10),
    "wide": Simulation(prompts=1.1, rest=0.8),
    "narrow": Simulation(prompts=0.35, rest=0.25),
    "flips": Simulation(flips=0.018),
    "flips, 10 held out": Simulation(flips=0.018, held_out=10),
    "4 prompts": Simulation(flips=0.018, search=4, held_out=4),
    "200 held out": Simulation(flips=0.018, held_out=200),
    "200 prompts": Simulation(flips=0.018, search=200, held_out=200),
    "one prompt of 120 always flips": Simulation(flips=0.01, always=1, all_prompts=120),
    "4 % of prompts always flip": Simulation(flips=0.01, always=160),
    "at the noise floor": Simulation(level=2e-5, noise=3.8e-5),
}


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A stated value: by it the best is told; its half width, a logarithm; and how many widened
    half widths the truth lies above it.
    """

    value: float
    half: float
    miss: float


def stated(value: float, low: float, high: float, true_log: float, true_error: float) -> Stated:
    """What was stated, beside the truth's logarithm with its standard error."""
    off = true_log - math.log(value)
    half = math.log(high / value) if off > 0 else math.log(value / low)
    wide = math.hypot(half, 1.96 * true_error)
    return Stated(value=value, half=math.log(high / low) / 2, miss=off / max(wide, 1e-300))


def standard_error(values: Array) -> float:
    """Of the mean of (N,) values."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def own_half_width(values: Array) -> float:
    """Half width of the mean's logarithm in recipes of schema 1.2."""
    t = float(stats.t.ppf(1 - 0.025 / 6, len(values) - 1))
    return t * standard_error(values) / float(values.mean())


def state(
    own: Array, others: Array, reference: tuple[Array, Array], curve: MeanCurve, floor: float
) -> dict[str, Stated]:
    """What is stated of one list from its own prompts, beside what the others say."""
    shift = max(floor, LEAST)
    logs, relative = log_damages(others, floor), others / others.mean()
    low, high = (end + shift for end in typical_interval(own, floor))
    found = {
        "typical": stated(
            typical(own, floor) + shift, low, high, float(logs.mean()), standard_error(logs)
        )
    }
    true = math.log(others.mean()), standard_error(relative)
    found["mean"] = stated(*curve.mean_interval(own, floor), *true)
    mean, factor = float(own.mean()), math.exp(own_half_width(own))
    found["of its own"] = stated(mean, mean / factor, mean * factor, *true)
    if own is not reference[0]:
        against = ratio(own, reference[0], floor)
        logs = logs - log_damages(reference[1], floor)
        found["ratio"] = stated(
            against.value, against.low, against.high, float(logs.mean()), standard_error(logs)
        )
    return found


def coverage(
    table: Table, *, search: int, held_out: int, splits: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """{what: {"given", "given above", "given half", "best", ...}} over random splits."""
    rng, damages = np.random.default_rng(seed), table.damages
    given, best = defaultdict[str, list[Stated]](list), defaultdict[str, list[Stated]](list)
    for _ in range(splits):
        seen, said, true = np.split(rng.permutation(damages.shape[1]), [search, search + held_out])
        curve = MeanCurve.fit(damages[:, seen], table.floor)
        order = np.argsort([typical(row, table.floor) for row in damages[:, seen]])
        first = int(rng.integers(0, max(len(order) - AMONG, 0) + 1))
        reference = damages[table.reference, said], damages[table.reference, true]
        all_stated = [
            state(damages[i, said], damages[i, true], reference, curve, table.floor)
            for i in rng.permutation(order[first : first + AMONG])
            if i != table.reference
        ]
        for what in all_stated[0]:
            given[what].append(all_stated[0][what])
            best[what].append(min((each[what] for each in all_stated), key=lambda s: s.value))
    return {what: summary(given[what], "given") | summary(best[what], "best") for what in given}


def summary(found: list[Stated], name: str) -> dict[str, float]:
    """Shares of the splits, and the median half width as a factor."""
    miss = np.array([each.miss for each in found])
    return {
        name: float((np.abs(miss) <= 1).mean()),
        f"{name} above": float((miss > 1).mean()),
        f"{name} half": float(np.exp(np.median([each.half for each in found]))),
    }


def show(name: str, tables: list[Table], *, search: int, held_out: int, splits: int) -> dict:
    """Print and return the coverage of tables of one kind, together."""
    parts = [
        coverage(table, search=search, held_out=held_out, splits=splits // len(tables), seed=seed)
        for seed, table in enumerate(tables)
    ]
    lists, prompts = tables[0].damages.shape
    print(f"{name}: {lists} lists x {prompts} prompts, {search} search, {held_out} held out")
    means = {
        what: {key: float(np.mean([part[what][key] for part in parts])) for key in row}
        for what, row in parts[0].items()
    }
    for what, row in means.items():
        cells = [
            f"{row[kind]:7.3f} {row[f'{kind} above']:6.3f}  x{row[f'{kind} half']:.2f}"
            for kind in ("given", "best")
        ]
        print(f"  {what:10}", *cells, flush=True)
    return means


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", type=Path, nargs="*")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--floor", type=float, default=3.8e-5, help="noise floor of damage")
    parser.add_argument("--search", type=int, default=10, help="search prompts")
    parser.add_argument("--held-out", type=int, nargs="+", default=[24], help="held-out prompts")
    parser.add_argument("--splits", type=int, default=400)
    args = parser.parse_args()
    out, environment = {}, describe_environment("cpu")
    print(f"{args.splits} splits each; {environment}")
    print(f"{'':12}{'given':>7}  above   half   best  above   half")
    for table in [read_table(path, args.floor) for path in args.tables]:
        for held_out in args.held_out:
            out[f"{table.name}, {held_out}"] = show(
                table.name, [table], search=args.search, held_out=held_out, splits=args.splits
            )
    for name, kind in SIMULATIONS.items() if args.simulate else ():
        tables = [kind.table(name, seed) for seed in range(8)]
        out[name] = show(
            name, tables, search=kind.search, held_out=kind.held_out, splits=args.splits
        )
    print(json.dumps({"splits": args.splits, "environment": environment, "coverage": out}))


if __name__ == "__main__":
    main()
