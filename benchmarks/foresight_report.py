"""`foresight.py report`: predicted, from shapes and measured, side by side, and their errors.

Errors are those of the speedup: what was said over what was measured end to end, less one. A case
counts as limited by the host if its own call or that of bf16 beside it is. Two
lists of a cell differ if their measured speedups are further apart than the half widths of their
90 % intervals together; only such pairs say whether a ranking is right.

The host is the limit of a call, measured, if one CUDA graph of the whole call (torchao-step-graph)
is faster by more than `HOST_PART`. Where it was not measured, that is not known.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = tuple[str, str, int, str, str]
"""(target, model, batch, runtime, list)."""
STEP = "torchao-step-graph"
HOST_PART = 0.10


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case with everything that is known of it."""

    key: Key
    predicted: Mapping[str, Any] | None
    shapes: Mapping[str, Any] | None
    measured: Mapping[str, Any]

    @property
    def speedup(self) -> float | None:
        """Measured end to end."""
        return self.measured.get("speedup")

    def error(self, source: str) -> float | None:
        """What a source said over what was measured, less one."""
        said = getattr(self, source) or {}
        if self.speedup is None or "speedup" not in said:
            return None
        return float(said["speedup"]) / self.speedup - 1

    @property
    def said_host(self) -> bool | None:
        """Whether the prediction said that the host is the limit, of bf16 or of the list."""
        return None if self.predicted is None else self.predicted.get("host_limited")


def read_rows(folder: Path) -> list[Row]:
    """Every measured case with its prediction and its price from shapes."""
    rows = []
    for path in sorted(folder.glob("measured-*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        target, edition = data["target"], data.get("edition", "")
        foreseen = folder / f"predicted-{target}{edition}.json"
        said = json.loads(foreseen.read_text(encoding="utf-8"))["cases"]
        predicted = {key_of(target, x): x for x in said}
        shapes = {key_of(target, x): x for x in data.get("from_shapes", [])}
        for case in data["cases"]:
            key = key_of(target, case)
            row = Row(
                key=key,
                predicted=predicted.get(key),
                shapes=shapes.get(key),
                measured=case["end_to_end"],
            )
            if row.predicted and row.predicted["fingerprint"] != case["fingerprint"]:
                raise SystemExit(f"{key}: the measured list is not the one that was predicted")
            rows.append(row)
    return rows


def key_of(target: str, case: Mapping[str, Any]) -> Key:
    return target, case["model"], case["batch_size"], case["runtime"], case["list"]


def host_limited(rows: Sequence[Row]) -> dict[Key, bool]:
    """{case: whether the host was its limit}, where the step graph was measured beside it."""
    seconds = {row.key: row.measured["call_s"] for row in rows if "call_s" in row.measured}
    found = {}
    for (target, model, batch, runtime, name), taken in seconds.items():
        step = seconds.get((target, model, batch, STEP, name))
        if step is not None and runtime != STEP:
            found[target, model, batch, runtime, name] = taken > step * (1 + HOST_PART)
    return found


def pairs(rows: Iterable[Row], source: str) -> tuple[int, int]:
    """(pairs of lists that a source ranks rightly, pairs that differ)."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.error(source) is not None:
            cells.setdefault(row.key[:4], []).append(row)
    right = different = 0
    for members in cells.values():
        for a, b in itertools.combinations(members, 2):
            apart = math.log(a.speedup / b.speedup)  # type: ignore[operator]
            if abs(apart) <= half_width(a) + half_width(b):
                continue
            different += 1
            said_a, said_b = getattr(a, source)["speedup"], getattr(b, source)["speedup"]
            right += (said_a - said_b) * apart > 0
    return right, different


def half_width(row: Row) -> float:
    """Half of the measured interval, as a logarithm; the bf16 run is compared with itself."""
    low, high = row.measured.get("interval90") or (1.0, 1.0)
    return math.log(high / low) / 2


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Errors of both sources over cases, and their rankings."""
    data: dict[str, Any] = {"cases": len(rows)}
    for source in ("shapes", "predicted"):
        errors = {row.key: row.error(source) for row in rows if row.key[4] != "none"}
        known = {key: abs(error) for key, error in errors.items() if error is not None}
        if not known:
            continue
        worst = max(known, key=lambda key: known[key])
        right, different = pairs(rows, source)
        data[source] = {
            "cases": len(known),
            "mean": statistics.fmean(known.values()),
            "worst": known[worst],
            "worst_case": list(worst),
            "inside": inside(rows, source),
            "pairs_right": right,
            "pairs": different,
            "bf16_mean": bf16_error(rows, source),
        }
    return data


def bf16_error(rows: Iterable[Row], source: str) -> float | None:
    """The mean error of a bf16 call's seconds."""
    errors = [
        abs(said["bf16_s"] / row.measured["call_s"] - 1)
        for row in rows
        if row.key[4] == "none"
        and "call_s" in row.measured
        and "bf16_s" in (said := getattr(row, source) or {})
    ]
    return statistics.fmean(errors) if errors else None


def inside(rows: Iterable[Row], source: str) -> float | None:
    """The part of measured speedups that lie inside a source's interval."""
    hits = []
    for row in rows:
        said = getattr(row, source) or {}
        interval = said.get("interval90" if source == "predicted" else "interval")
        if interval and row.speedup is not None and row.key[4] != "none":
            hits.append(interval[0] <= row.speedup <= interval[1])
    return statistics.fmean(hits) if hits else None


def report(folder: Path) -> tuple[str, dict[str, Any]]:
    """The Markdown of everything, and the summary."""
    rows = sorted(read_rows(folder), key=lambda row: row.key)
    truth = host_limited(rows)
    limited = {row.key: bool(truth.get(row.key, row.said_host)) for row in rows}
    waits = {row.key: limited[row.key] or limited.get((*row.key[:4], "none")) for row in rows}
    host = [row for row in rows if waits[row.key]]
    gpu = [row for row in rows if not waits[row.key]]
    told = {
        "said_and_right": sum(bool(r.said_host) == truth[r.key] for r in rows if r.key in truth),
        "known": len(truth),
    }
    data = {"gpu": summary(gpu), "host": summary(host), "host_limited": told}
    lines = [*summary_table(data), "", *model_table(rows, waits), ""]
    lines += [*case_table(rows, truth), "", *failures(rows)]
    return "\n".join(lines), data


def percent(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{100 * value:{'+' if sign else ''}.1f} %"


def summary_table(data: Mapping[str, Any]) -> list[str]:
    """Errors of the speedup where the GPU is the limit, and where the host is."""
    lines = [
        "| limit | source | cases | mean | worst | inside its interval | lists ranked right |"
        " bf16 ms, mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for limit in ("gpu", "host"):
        for source, title in (("shapes", "from shapes"), ("predicted", "predicted")):
            x = data[limit].get(source)
            if x is None:
                continue
            worst = f"{percent(x['worst'])} ({x['worst_case'][1]}, {x['worst_case'][4]})"
            lines.append(
                f"| {limit} | {title} | {x['cases']} | {percent(x['mean'])} | {worst} |"
                f" {percent(x['inside'])} | {x['pairs_right']} of {x['pairs']} |"
                f" {percent(x['bf16_mean'])} |"
            )
    told = data["host_limited"]
    lines += [
        "",
        f"Whether the host is the limit was said rightly of {told['said_and_right']} of"
        f" {told['known']} runs.",
    ]
    return lines


def model_table(rows: Iterable[Row], waits: Mapping[Key, object]) -> list[str]:
    """Everything quantized, batch 1: one line a model and GPU, one column a runtime."""
    cells = {row.key: row for row in rows if row.key[2] == 1 and row.key[4] == "all"}
    runtimes = ("torchao-graphs", "torchao-compiled", STEP)
    names = [name.removeprefix("torchao-") for name in runtimes]
    lines = [
        "| GPU | model | bf16 ms |"
        + "".join(f" {x}: measured, shapes, predicted |" for x in names),
        "|---|---|---|" + "---|" * len(names),
    ]
    for target, model in dict.fromkeys(key[:2] for key in cells):
        found = [cells.get((target, model, 1, runtime, "all")) for runtime in runtimes]
        bf16 = [x.measured["bf16_s"] for x in found if x is not None and x.speedup is not None]
        words = ["-" if x is None else brief(x, host=bool(waits[x.key])) for x in found]
        first = f"{1e3 * bf16[0]:.1f}" if bf16 else "-"
        lines.append(f"| {target} | {model} | {first} | " + " | ".join(words) + " |")
    return lines


def brief(row: Row, *, host: bool) -> str:
    """Three speedups of a case; a star where the host is the limit."""
    if row.speedup is None:
        return "fails"
    told = [x["speedup"] if x and "speedup" in x else None for x in (row.shapes, row.predicted)]
    texts = [f"**{row.speedup:.3f}**", *(f"{x:.3f}" if x else "-" for x in told)]
    return " ".join(texts) + (" *" if host else "")


def case_table(rows: Iterable[Row], truth: Mapping[Key, bool]) -> list[str]:
    """One line a case: three speedups and what the call took."""
    lines = [
        "| GPU | model | batch | runtime | list | ms a call | measured | from shapes | predicted |"
        " limit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.speedup is None:
            continue
        target, model, batch, runtime, name = row.key
        limit = {True: "host", False: "GPU", None: ""}[truth.get(row.key)]
        lines.append(
            f"| {target} | {model} | {batch} | {runtime.removeprefix('torchao-')} | {name} |"
            f" {1e3 * row.measured['call_s']:.1f} | {said(row.measured, 'interval90')} |"
            f" {said(row.shapes, 'interval', row.error('shapes'))} |"
            f" {said(row.predicted, 'interval90', row.error('predicted'))} | {limit} |"
        )
    return lines


def said(numbers: Mapping[str, Any] | None, interval: str, error: float | None = None) -> str:
    """A speedup with its interval and its error."""
    if numbers is None or "speedup" not in numbers:
        return "-"
    bounds = numbers.get(interval)
    text = f"{numbers['speedup']:.3f}x"
    text += f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""
    return text + (f" ({percent(error, sign=True)})" if error is not None else "")


def failures(rows: Iterable[Row]) -> list[str]:
    """The cases that have no time, with their reasons."""
    return [
        f"- {' / '.join(map(str, row.key))}: {row.measured['reason']}"
        for row in rows
        if "reason" in row.measured
    ]
