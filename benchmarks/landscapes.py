"""How do searches do on landscapes whose truth is known? Any arm, any landscape, no model, seconds.

A landscape answers a skip-list with LPIPS of some search prompts, as a model would, and knows its
damage on endless others. Arms (`search_arms.py`) hear the first; fronts are judged by the second.
Hypervolume is relative to the ceiling of as many points as there were trials (`ceiling.py`).

    python benchmarks/landscapes.py --arms ours tpe --seeds 8 --out runs/landscapes
    python benchmarks/landscapes.py --table runs/table-tiny-flux --arms ours
    python benchmarks/landscapes.py --only interactions --arms tpe --trials 1000 --seeds 2
    python benchmarks/landscapes.py --arms ours --workers 8 --out runs/eight --against runs/one

Each seed draws a new landscape, and is the arm's seed too; a fitted table is the same landscape for
each. What is played is kept in --out, and not played again. The last line is JSON.
`landscape_kinds.py` says what the landscapes are.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ceiling import COUNTS as POINTS
from ceiling import SPEEDUPS, Front, fit_damages, front_by, items_of, kept_front
from landscape_kinds import KINDS, Landscape, fitted, make
from measures import LEAST, Corner, best_subset, damage_at, hypervolume_of, student_interval
from playing import fronts_at, marks_of, play
from scored_rows import rows_in
from search_arms import ARMS, PARALLEL, SEEDLESS, can_play
from table_files import read_table

from sensitivity.core.environment import describe_environment
from sensitivity.search.candidates import Choice

LISTS = 3000
"""Lists that the ceiling is fitted to."""
SAVINGS = 100
Row = dict[str, Any]


class Judge:
    """The truth about fronts of a landscape, and its ceiling.

    Args:
        landscape: whose truth.
        kept: where the ceiling's lists are kept for the next time; None: nowhere.
    """

    def __init__(self, landscape: Landscape, kept: Path | None = None) -> None:
        self.landscape, candidates = landscape, landscape.world.candidates
        self.items, self.bf16_s = items_of(candidates), candidates.bf16_s
        by_hand = landscape.truth([candidates.canonical(candidates.rule_of_thumb)])[0]
        self.corners: list[Corner] = [(self.bf16_s, 1.5 * float(value)) for value in by_hand]
        self.front = kept_front(kept, self._fitted) if kept else self._fitted()
        self.ceiling_points = self._points(self.front.choices)
        self.ceiling = [self._ceiling(measure) for measure in (0, 1)]

    def _fitted(self) -> Front:
        """The ceiling's lists, from damages fitted to the truth about `LISTS` lists."""
        lists = self._lists(np.random.default_rng(1))
        fit = fit_damages(self.items, lists, self.landscape.truth(lists)[:, 0])
        candidates = self.landscape.world.candidates
        return front_by(fit, candidates, self.corners[0], savings=SAVINGS)

    def _lists(self, rng: np.random.Generator) -> list[Choice]:
        """Random lists, and knapsack-like ones of blurred damages."""
        candidates = self.landscape.world.candidates
        damages = np.exp(self.landscape.log_damages.mean(1))
        gains = np.array([candidates.groups[g].gains_s[o] for g, o in self.items])
        found = []
        for i in range(LISTS):
            if i % 2:
                order = rng.permutation(len(self.items))
            else:
                blurred = damages * np.exp(rng.normal(0, 0.5, len(damages)))
                order = np.argsort(-np.maximum(gains, 1e-9) / blurred)
            choice = [0] * len(candidates.groups)
            for item in order[: rng.integers(1, len(order) + 1)]:
                group, option = self.items[item]
                choice[group] = choice[group] or option
            found.append(tuple(choice))
        return found

    def _points(self, choices: Iterable[Choice]) -> Any:
        """(n, 3) seconds, typical, mean."""
        listed = list(choices)
        seconds = [self.landscape.world.candidates.latency_s(choice) for choice in listed]
        return np.column_stack([seconds, self.landscape.truth(listed)])

    def _ceiling(self, measure: int) -> dict[int, float]:
        """{n: hypervolume of the best n of the ceiling's lists}."""
        points, corner = self.ceiling_points[:, [0, 1 + measure]], self.corners[measure]
        return {
            count: hypervolume_of(points[best_subset(points, count, corner)], corner)
            for count in (*POINTS, 200)
        }

    def judge(self, choices: list[Choice], trials: int) -> Row:
        """What a front of these lists is worth after so many trials."""
        points = self._points(choices) if choices else np.zeros((0, 3))
        row: Row = {"points": len(choices)}
        for measure, name in enumerate(("typical", "mean")):
            both, ceiling = points[:, [0, 1 + measure]], self.ceiling[measure]
            volume = hypervolume_of(both, self.corners[measure])
            row[name] = volume / ceiling[min(ceiling, key=lambda n: abs(n - trials))]
            row[f"{name}, of all"] = volume / ceiling[200]
            best = self.ceiling_points[:, [0, 1 + measure]]
            for speedup in SPEEDUPS:
                least = damage_at(best, speedup, self.bf16_s)
                if np.isfinite(least) and least > LEAST:
                    excess = damage_at(both, speedup, self.bf16_s) / least - 1
                    row[f"{name} at {speedup}"] = 100 * excess
        return row


def run(job: tuple[str, int, argparse.Namespace, list[str], float]) -> list[Row]:
    """One landscape of one seed: what each of some arms reaches."""
    kind, seed, args, arms, deadline = job
    landscape = fitted(read_table(args.table), seed) if args.table else make(kind, seed)
    name = f"{kind}-{0 if args.table else seed}.json".replace(" ", "-").replace("/", "-")
    judge = Judge(landscape, args.out / "ceilings" / name if args.out else None)
    rows: list[Row] = []
    for arm in arms:
        if not can_play(arm, landscape.world):
            continue
        begun = time.monotonic()
        played = play(
            arm,
            landscape.world,
            seed=seed,
            trials=args.trials,
            hear=landscape.hear,
            deadline=deadline,
            workers=args.workers,
        )
        if played is None:
            break
        seconds = time.monotonic() - begun
        for count in marks_of(played):
            for rule, front in fronts_at(played, count, landscape.world, arm).items():
                found = judge.judge([played.choices[i] for i in front], count)
                about = {"landscape": kind, "seed": seed, "arm": arm, "trials": count, "rule": rule}
                about["workers"] = args.workers
                rows.append(about | found | {"seconds": seconds, "budget": args.trials})
    return rows


def missing_jobs(args: argparse.Namespace, kinds: list[str], known: list[Row]) -> list[Any]:
    """What `run` has to do that `rows.jsonl` does not have, seed by seed."""
    names = ("landscape", "seed", "arm", "budget")
    done = {tuple(row[name] for name in names) for row in known if workers_of(row) == args.workers}
    deadline, jobs = time.monotonic() + args.time_limit_s, []
    for seed in range(args.seeds):
        for kind in kinds:
            wanted = [arm for arm in args.arms if not (arm in SEEDLESS and args.table and seed)]
            arms = [arm for arm in wanted if (kind, seed, arm, args.trials) not in done]
            if arms:
                jobs.append((kind, seed, args, arms, deadline))
    return jobs


def workers_of(row: Row) -> int:
    """How many workers a row is of; earlier rows do not say that it is one."""
    return int(row.get("workers", 1))


def played_rows(args: argparse.Namespace, kinds: list[str]) -> list[Row]:
    """The rows of all jobs; each is written to `rows.jsonl` as it is finished."""
    known = list(rows_in(args.out, "rows")) if args.out else []
    jobs = missing_jobs(args, kinds, known)
    with contextlib.ExitStack() as stack:
        found = map(run, jobs)
        if args.processes > 1 and len(jobs) > 1:
            pool = multiprocessing.get_context("spawn").Pool(args.processes)
            found = stack.enter_context(pool).imap_unordered(run, jobs)
        for rows in found:
            known += rows
            if args.out:
                with (args.out / "rows.jsonl").open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    mine = {"landscape": kinds, "arm": args.arms, "budget": [args.trials]}
    return [
        row
        for row in known
        if row["seed"] < args.seeds
        and workers_of(row) == args.workers
        and all(row[key] in some for key, some in mine.items())
    ]


def summarise(rows: list[Row]) -> list[Row]:
    """Mean and 95 % interval over seeds of each (landscape, arm, trials, rule)."""
    cells: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["landscape"], row["arm"], row["trials"], row["rule"]].append(row)
    answer = []
    for (landscape, arm, trials, rule), found in cells.items():
        summary: Row = {"landscape": landscape, "arm": arm, "trials": trials, "rule": rule}
        summary["seeds"] = len(found)
        for name in (key for key in found[0] if key.startswith(("typical", "mean"))):
            values = [row[name] for row in found if np.isfinite(row.get(name, np.nan))]
            if values:
                summary[name] = float(np.mean(values))
                summary[f"{name} ci95"] = student_interval(values)
        summary["seconds"] = float(np.median([row["seconds"] for row in found]))
        answer.append(summary)
    return answer


def against(rows: list[Row], others: list[Row]) -> list[Row]:
    """What is better than in other rows of the same landscapes and seeds: differences, paired."""

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("landscape", "seed", "arm", "trials", "rule"))

    before, paired = {key(row): row for row in others}, []
    for row in rows:
        if key(row) in before:
            names = [name for name in row if name.startswith(("typical", "mean"))]
            old = before[key(row)]
            changes = {name: row[name] - old[name] for name in names if name in old}
            paired.append(row | changes)
    return paired


def over_all(rows: list[Row]) -> list[Row]:
    """The mean over landscapes of each seed, as a landscape of its own."""
    cells: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["seed"], row["arm"], row["trials"], row["rule"]].append(row)
    most = max((len(found) for found in cells.values()), default=0)
    means = []
    for (seed, arm, trials, rule), found in cells.items():
        if len(found) == most > 1:
            names = [key for key in found[0] if key.startswith(("typical", "mean", "seconds"))]
            mean = {
                name: float(np.nanmean([row.get(name, np.nan) for row in found])) for name in names
            }
            about = {"landscape": "all", "seed": seed, "arm": arm, "trials": trials, "rule": rule}
            means.append(about | mean)
    return means


def show(summary: list[Row], rule: str) -> None:
    """A table for each landscape."""
    for landscape in dict.fromkeys(row["landscape"] for row in summary):
        mine = [row for row in summary if row["landscape"] == landscape and row["rule"] == rule]
        counts = sorted({row["trials"] for row in mine})
        print(f"\n{landscape}: hypervolume of typical LPIPS, of the ceiling's with as many points")
        print(f"{'arm':32}" + "".join(f"{f'@{count}':>23}" for count in counts) + f"{'s':>7}")
        for arm in dict.fromkeys(row["arm"] for row in mine):
            cells = {row["trials"]: row for row in mine if row["arm"] == arm}
            texts = [
                f"{c['typical']:.3f} [{c['typical ci95'][0]:.3f}, {c['typical ci95'][1]:.3f}]"
                if (c := cells.get(count))
                else ""
                for count in counts
            ]
            seconds = max(row["seconds"] for row in cells.values())
            print(f"{arm:32}" + "".join(f"{text:>23}" for text in texts) + f"{seconds:7.1f}")


def main() -> None:
    """Play, judge, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=["ours"], choices=list(ARMS))
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--table", type=Path, help="a folder of score_tables.py, instead")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument(
        "--workers", type=int, default=1, help="lists that are being scored at a time"
    )
    parser.add_argument("--rule", choices=("estimate", "score"), default="estimate")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--time-limit-s", type=float, default=1e9)
    parser.add_argument("--out", type=Path, help="folder of rows and ceilings; resumable")
    parser.add_argument(
        "--against", type=Path, help="such a folder of another version: differences are shown"
    )
    args = parser.parse_args()
    if args.workers > 1 and not set(args.arms) <= PARALLEL:
        parser.error(f"--workers is of the arms {', '.join(sorted(PARALLEL))}")
    kinds = [read_table(args.table).model] if args.table else args.only
    if args.out:
        (args.out / "ceilings").mkdir(parents=True, exist_ok=True)
    rows = played_rows(args, kinds)
    summary = summarise([*rows, *over_all(rows)])
    show(summary, args.rule)
    answer = {
        "benchmark": "landscapes",
        "machine": describe_environment("cpu"),
        "settings": {name: value for name, value in vars(args).items() if name != "processes"},
        "results": summary,
    }
    if args.against:
        changes = against(rows, list(rows_in(args.against, "rows")))
        answer["changes"] = summarise([*changes, *over_all(changes)])
        print(f"\nchanges against {args.against}, seed by seed")
        show(answer["changes"], args.rule)
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main()
