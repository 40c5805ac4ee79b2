"""What do the rows of `search_quality.py` say? `analyse` a folder, `show` the tables.

Files. `scores*.jsonl` has LPIPS of each list on each prompt, `results*.jsonl` the fronts of each
job, as [seconds, id of the list]. Measures and the noise of the fresh prompts follow from them, so
a table can be made again without any model.

Measures. `typical` LPIPS is the geometric mean over the fresh prompts. `mean` is what a curve that
all lists share makes of it: beyond that a list has hardly a mean of its own (LOG.md), and what
looks like one is the luck of few prompts. `own mean` is the arithmetic mean as it is, three times
as noisy.

Hypervolume reaches to bf16's seconds and 1.5 times the rule of thumb's damage. It is a part of the
ceiling's with as many points as trials; without a ceiling, of that of everything which any arm
found. Intervals are Student's over seeds. `noise` is the standard deviation of an arm's mean when
the fresh prompts are drawn again with replacement, arm and ceiling alike.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measures import LEAST, Array, damage_at, hypervolume_of, student_interval, typical_of
from scored_model import SETTINGS
from scored_rows import rows_in

DRAWS = 40
MEASURES = ("typical", "mean", "own mean")
FEWEST = 10
"""Lists that the curve from typical to mean is fitted to."""
RULES = ("estimate", "score")
Row = dict[str, Any]


class Judged:
    """Damages of lists on the fresh prompts.

    Args:
        folder: of `search_quality.py`.
        floor: LPIPS of bf16 from itself.
    """

    def __init__(self, folder: Path, floor: float) -> None:
        rows = {row["id"]: row for row in rows_in(folder, "scores") if row["split"] == "held_out"}
        self.place = {name: i for i, name in enumerate(rows)}
        table = np.array([row["per_prompt"] for row in rows.values()])
        rng = np.random.default_rng(0)
        prompts = table.shape[1]
        draws = [np.arange(prompts), *(rng.integers(prompts, size=prompts) for _ in range(DRAWS))]
        typical = np.array([typical_of(table[:, draw], floor) for draw in draws])
        means = np.array([table[:, draw].mean(1) for draw in draws])
        self.values: dict[str, Array] = {  # each (1 + DRAWS, lists); the first is of all prompts
            "typical": typical,
            "mean": np.array([by_curve(*both) for both in zip(typical, means, strict=True)]),
            "own mean": means,
        }

    def points(self, front: list[Any], measure: str, draw: int = 0) -> Array:
        """(n, 2) seconds and damage of a front."""
        damages = self.values[measure][draw]
        return np.array([[seconds, damages[self.place[name]]] for seconds, name in front])

    def damage(self, name: str, measure: str, draw: int = 0) -> float:
        """Of one list."""
        return float(self.values[measure][draw][self.place[name]])


def by_curve(typical: Array, means: Array) -> Array:
    """(lists,) means as a smooth function of typical damages, which all lists share.

    log(mean / typical) is a line in log typical. With fewer than `FEWEST` lists, the means.
    """
    used = typical > 0
    if used.sum() < FEWEST:
        return means
    logs = np.log(typical[used])
    curve = np.polyfit(logs, np.log(means[used]) - logs, 1)
    smooth = np.array(means)
    smooth[used] = np.exp(logs + np.polyval(curve, logs))
    return smooth


def analyse(folder: Path) -> Row:
    """{setting: {arm: {"rule@trials": {measure: ...}}}}; of equal jobs the longest, last counts."""
    rows = sorted(rows_in(folder, "results"), key=lambda row: row.get("trials", 0))
    results = {tuple(row["job"]): row for row in rows}
    if not results:
        return {}
    judged = Judged(folder, next(iter(results.values()))["floor"])
    answer: Row = {}
    for setting, (formats, granularity) in enumerate(SETTINGS):
        rows = [row for job, row in results.items() if job[0] == setting]
        if rows:
            answer[f"{'+'.join(formats)} {granularity}"] = _setting(rows, judged)
    return answer


def _setting(rows: list[Row], judged: Judged) -> Row:
    """The tables of one setting."""
    ceiling = next((row for row in rows if row["job"][1] == "ceiling"), None)
    played = [row for row in rows if "fronts" in row]
    everything = [point for row in played for front in row["fronts"].values() for point in front]
    whole = ceiling["best"] if ceiling else {"0": everything}
    bf16_s, by_hand = rows[0]["bf16_s"], rows[0]["by_hand"]
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in played:
        name = row["job"][1] + (" (long)" if row["job"][3] > 50 else "")
        for key, front in row["fronts"].items():
            cells[name, key].append({"front": front, "ask_ms": row["ask_ms"]})
    volume = _volumes(judged, bf16_s, by_hand)
    answer: Row = {"arms": {}, "points": len({tuple(p) for p in everything})}
    if ceiling:
        answer["ceiling"] = _ceiling(ceiling, volume)
    for (name, key), found in sorted(cells.items()):
        trials = int(key.split("@")[1])
        nearest = whole[min(whole, key=lambda n: abs(int(n) - trials))]
        cell: Row = {"seeds": len(found), "ask_ms": float(np.median([f["ask_ms"] for f in found]))}
        for measure in MEASURES:
            parts = np.array(
                [
                    [volume(f["front"], measure, d) / volume(nearest, measure, d) for f in found]
                    for d in range(1 + DRAWS)
                ]
            )  # (draws, seeds)
            cell[measure] = {
                "of_ceiling": float(parts[0].mean()),
                "ci95": student_interval(parts[0].tolist()),
                "noise": float(parts[1:].mean(1).std()),
            }
            if ceiling:
                cell[measure]["above_ceiling_percent"] = _above(
                    [f["front"] for f in found], ceiling, judged, measure
                )
        answer["arms"].setdefault(name, {})[key] = cell
    answer["trials_to_match"] = _matched(answer["arms"])
    return answer


def _volumes(judged: Judged, bf16_s: float, by_hand: str) -> Callable[[list[Any], str, int], float]:
    """A function of a front, a measure and a draw of the prompts."""
    known: dict[tuple[Any, ...], float] = {}

    def volume(front: list[Any], measure: str, draw: int) -> float:
        key = (tuple(name for _, name in front), measure, draw)
        if key not in known:
            corner = (bf16_s, 1.5 * judged.damage(by_hand, measure, draw))
            known[key] = hypervolume_of(judged.points(front, measure, draw), corner)
        return known[key]

    return volume


def _ceiling(ceiling: Row, volume: Callable[[list[Any], str, int], float]) -> Row:
    """The ceiling's own hypervolumes, relative to that of its most points."""
    answer: Row = {"lists": ceiling["lists"]}
    most = max(ceiling["best"], key=int)
    for measure in MEASURES:
        answer[measure] = {}
        for n, front in ceiling["best"].items():
            parts = [
                volume(front, measure, d) / volume(ceiling["best"][most], measure, d)
                for d in range(1 + DRAWS)
            ]
            low, high = np.quantile(parts[1:], [0.025, 0.975])
            answer[measure][n] = {"relative": parts[0], "ci95": [float(low), float(high)]}
    return answer


def _above(fronts: list[Any], ceiling: Row, judged: Judged, measure: str) -> Row:
    """{speedup: {mean, ci95}} of LPIPS above the ceiling's, in per cent."""
    answer: Row = {}
    for speedup, (_, name) in ceiling["at"].items():
        least = judged.damage(name, measure)
        found = [
            damage_at(judged.points(front, measure), float(speedup), ceiling["bf16_s"])
            for front in fronts
            if front
        ]
        values = [100 * (value / least - 1) for value in found if np.isfinite(value)]
        if values and least > LEAST:
            answer[speedup] = {
                "mean": float(np.mean(values)),
                "ci95": student_interval(values),
                "reached": len(values),
            }
    return answer


def _matched(arms: Row) -> Row:
    """{long arm: trials after which its front has the area of ours at 50 trials; None: never}.

    Both relative to the ceiling of 50 points, by typical LPIPS and by what a user of the arm sees.
    """
    ours = arms.get("ours", {}).get("estimate@50")
    answer: Row = {}
    for name, cells in arms.items():
        if ours and name.endswith("(long)"):
            counts = sorted(int(key.split("@")[1]) for key in cells if key.startswith("score@"))
            aim = ours["typical"]["of_ceiling"]
            answer[name] = next(
                (
                    n
                    for n in counts
                    if n >= 50 and cells[f"score@{n}"]["typical"]["of_ceiling"] >= aim
                ),
                None,
            )
    return answer


def show(answer: Row) -> None:
    """The tables."""
    for setting, found in answer.items():
        print(f"\n{setting}: hypervolume on fresh prompts, {found['points']} points found")
        for measure in MEASURES:
            if "ceiling" in found:
                parts = found["ceiling"][measure].items()
                own = ", ".join(f"{n} points {cell['relative']:.3f}" for n, cell in parts)
                print(f"{measure}: the ceiling, of its own with most points: {own}")
            for rule in RULES:
                _show_rule(found["arms"], measure, rule)
        if found["trials_to_match"]:
            print(f"trials to match ours at 50: {found['trials_to_match']}")


def _show_rule(arms: Row, measure: str, rule: str) -> None:
    """One table."""
    counts = sorted(
        {int(key.split("@")[1]) for cells in arms.values() for key in cells if rule in key}
    )
    print(f"\n{measure}, front by {rule}; part of the ceiling's [95 %], noise of the prompts")
    print(f"{'arm':32}" + "".join(f"{f'@{count}':>30}" for count in counts[:3]))
    for name, cells in arms.items():
        line = ""
        for count in counts[:3]:
            cell = cells.get(f"{rule}@{count}", {}).get(measure)
            text = ""
            if cell:
                low, high = cell["ci95"]
                text = f"{cell['of_ceiling']:.3f} [{low:.3f}, {high:.3f}] {cell['noise']:.4f}"
            line += f"{text:>30}"
        print(f"{name:32}{line}")
        longer = [
            f"{n} trials {cells[f'{rule}@{n}'][measure]['of_ceiling']:.3f}"
            for n in counts[3:]
            if f"{rule}@{n}" in cells
        ]
        if longer:
            print("   " + ", ".join(longer))
        last = cells.get(f"{rule}@{counts[min(2, len(counts) - 1)]}", {}).get(measure, {})
        if last.get("above_ceiling_percent"):
            above = last["above_ceiling_percent"].items()
            print("   " + ", ".join(f"at {s}x {cell['mean']:+.0f} %" for s, cell in above))
