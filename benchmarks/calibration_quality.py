"""Which estimator of layer sensitivities says most about damage for its seconds, and with how many
prompts and steps?

    python benchmarks/calibration_quality.py --scores runs/table-tiny-flux --model tiny-flux \
        [--format nvfp4] [--granularity group] [--estimator rollout] [--device cuda]

Truth is a table of scored skip-lists of the model, as `score_tables.py` makes it: rows*.jsonl in a
folder, or one such file; a line has `choice` (an option for each group) and LPIPS of `search` and
`fresh` prompts. What counts of a list is its typical LPIPS over all of them.

Each estimator is run with several (prompts, states), nothing known before: its seconds, its cost in
trials, and two errors, both in logarithms.

- of damages: each group's damage is fitted to the table (`ceiling.py`); log damage is regressed on
  log error, and each group is foreseen by a regression on the others. Only where the table has
  twice as many lists as there are damages. Beside it stands what no estimator has: the standard
  deviation of the log damages.
- of lists: log typical LPIPS of each list, regressed on the log of the sum of error^power over what
  it quantizes, each list left out in turn; the best of a few powers.

`knows` is what an estimator knows of the damages, 1 - (its error / that without one)^2, and `a
trial` that divided by its cost in trials. An estimator that is as good as another for more seconds
is marked.

The last line is JSON. Models are compared by running it on each of them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ceiling import features_of, fit_damages, items_of
from numpy.typing import NDArray
from scored_rows import rows_in

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import parse_formats
from sensitivity.errors import SensitivityError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.typical import typical
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.stored import calibrate, calibration_cost, steps_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.prepare import prepare
from sensitivity.workflows.requests import SearchRequest

CALLS = {
    EstimatorName.LOCAL: [(4, 2)],
    EstimatorName.GRADIENT: [(4, 2), (8, 4)],
    EstimatorName.OUTPUT: [(4, 1), (4, 2)],
    EstimatorName.PREVIEW: [(2, 1)],
}
"""(prompts, recorded denoiser calls) of those that work at recorded calls."""
ROLLOUTS = [(1, 0.5), (2, 0.25), (2, 0.375), (2, 0.5), (4, 0.5), (2, 1.0)]
"""(prompts, part of the steps)"""
POWERS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)
LISTS_A_DAMAGE = 2
Array = NDArray[np.float64]


def settings_of(name: EstimatorName, steps: int) -> list[tuple[int, int]]:
    """The (prompts, states) that an estimator is run with."""
    if name is not EstimatorName.ROLLOUT:
        return CALLS[name]
    return [(prompts, max(1, round(part * steps))) for prompts, part in ROLLOUTS]


def read_scores(path: Path, groups: int, floor: float) -> tuple[NDArray[np.int64], Array]:
    """(n, groups) choices and (n,) typical LPIPS of a table; of equal choices the first counts."""
    rows: dict[tuple[int, ...], float] = {}
    folder, kind = (path, "rows") if path.is_dir() else (path.parent, path.stem)
    for row in rows_in(folder, kind):
        if len(row["choice"]) != groups:
            raise SystemExit(
                f"{path} has skip-lists of {len(row['choice'])} groups, and the model has {groups}:"
                " name the formats and the granularity that the table was made with"
            )
        rows.setdefault(tuple(row["choice"]), typical(row["search"] + row["fresh"], floor))
    kept = {choice: value for choice, value in rows.items() if any(choice) and value > 0}
    return np.array(list(kept), dtype=np.int64), np.array(list(kept.values()))


def left_out(x: Array, y: Array) -> float:
    """Root mean square of what a regression on all others misses of each y; x (n,) or (n, k)."""
    design = np.column_stack([np.ones_like(x), x])
    hat = design @ np.linalg.pinv(design)
    missed = (y - hat @ y) / np.maximum(1 - np.diag(hat), 1e-9)
    return float(np.sqrt(np.mean(missed**2)))


def error_of_lists(errors: Array, features: Array, logs: Array) -> tuple[float, float]:
    """The error of lists, and its power; errors (D,), features (n, D), logs (n,)."""
    return min((left_out(np.log(features @ errors**p), logs), p) for p in POWERS)


def measure(
    evaluator: Evaluator, candidates: Candidates, name: EstimatorName, prompts: int, states: int
) -> tuple[Array, float, float]:
    """((D,) errors, seconds, trials) of an estimator, nothing known before."""
    how: dict[str, Any] = {"estimator": name, "states": states, "prompts": prompts}
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "fresh.db") as fresh:
        trials = calibration_cost(evaluator, candidates, fresh, **how).trials
        begun = time.monotonic()
        errors = calibrate(evaluator, candidates, fresh, **how)
        seconds = time.monotonic() - begun
    found = np.array([errors[item] for item in items_of(candidates)])
    return np.maximum(found, 1e-9), seconds, trials


def compare(
    evaluator: Evaluator,
    candidates: Candidates,
    choices: NDArray[np.int64],
    values: Array,
    names: Sequence[EstimatorName],
) -> dict[str, Any]:
    """The table, printed as it is made."""
    items, logs = items_of(candidates), np.log(values)
    features = features_of(items, choices)
    damages = None
    if len(values) >= LISTS_A_DAMAGE * len(items):
        damages = np.log(fit_damages(items, choices, values).damages)
    spread = None if damages is None else float(damages.std())
    print(
        f"{len(values)} lists of {len(items)} damages; sd of log damage"
        f" {'not fitted' if spread is None else f'{spread:.2f}'}, of lists {logs.std():.2f}\n"
        f"{'estimator':<10} {'prompts':>7} {'states':>6} {'seconds':>8} {'trials':>7}"
        f" {'damages':>8} {'lists':>6} {'power':>6} {'knows':>6} {'a trial':>8}"
    )
    rows: list[dict[str, Any]] = []
    for name in names:
        for prompts, states in settings_of(name, steps_of(evaluator)):
            try:
                errors, seconds, trials = measure(evaluator, candidates, name, prompts, states)
            except SensitivityError as error:
                print(f"{name:<10} {prompts:7} {states:6}  {error}")
                continue
            of_lists, power = error_of_lists(errors, features, logs)
            missed = None if damages is None else left_out(np.log(errors), damages)
            whole, left = (logs.std(), of_lists) if missed is None else (spread, missed)
            knows = 1 - (left / float(whole)) ** 2
            rows.append(
                {
                    "estimator": str(name),
                    "prompts": prompts,
                    "states": states,
                    "seconds": seconds,
                    "trials": trials,
                    "error_of_damages": missed,
                    "error_of_lists": of_lists,
                    "power": power,
                    "knows": knows,
                    "errors": errors.tolist(),
                }
            )
            shown = "       -" if missed is None else f"{missed:8.3f}"
            print(
                f"{name:<10} {prompts:7} {states:6} {seconds:8.1f} {trials:7.2f} {shown}"
                f" {of_lists:6.3f} {power:6} {knows:6.2f} {knows / trials:8.2f}",
                flush=True,
            )
    if damages is not None:
        print_pairs(rows, damages)
    beaten = [
        row
        for row in rows
        if any(
            other["seconds"] < row["seconds"] and other["knows"] >= row["knows"] for other in rows
        )
    ]
    for row in beaten:
        print(f"no better than a quicker one: {row['estimator']} {row['prompts']}x{row['states']}")
    return {
        "lists": len(values),
        "damages": len(items),
        "sd_of_log_damage": spread,
        "sd_of_log_typical": float(logs.std()),
        "estimators": rows,
    }


def print_pairs(rows: Sequence[dict[str, Any]], damages: Array) -> None:
    """Add to each rollout what it and the first gradient know together, and print it."""
    gradient = next((row for row in rows if row["estimator"] == EstimatorName.GRADIENT), None)
    for row in rows:
        if gradient is not None and row["estimator"] == EstimatorName.ROLLOUT:
            logs = np.log([row["errors"], gradient["errors"]]).T
            row["with_gradient"] = left_out(logs, damages)
            print(
                f"rollout {row['prompts']}x{row['states']} and gradient together:"
                f" {row['with_gradient']:.3f}"
            )


def main() -> None:
    """Load the model, read the table, compare, and print everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", type=Path, required=True, help="a folder of rows, or one file")
    parser.add_argument("--model", default="tiny-flux")
    parser.add_argument("--format", action="append")
    parser.add_argument("--granularity", default="group", choices=["group", "layer"])
    known = [str(name) for name in EstimatorName]
    parser.add_argument("--estimator", action="append", choices=known, help="default: all")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    formats = parse_formats(options.format or ["nvfp4"])
    machine = describe_environment(options.device)
    print(" ".join(f"{key}={value}" for key, value in machine.items()))
    request = SearchRequest(formats=formats, granularity=options.granularity, device=options.device)
    prepared = prepare(resolve_spec(options.model), request)
    evaluator, candidates = prepared.evaluator, prepared.candidates
    floor = evaluator.damage_floor
    choices, values = read_scores(options.scores, len(candidates.groups), floor)
    names = [EstimatorName(name) for name in options.estimator or known]
    result = compare(evaluator, candidates, choices, values, names)
    evaluator.close()
    about = {
        "model": options.model,
        "formats": [str(name) for name in formats],
        "granularity": options.granularity,
        "floor": floor,
    }
    print(json.dumps({"calibration_quality": about | result, "machine": dict(machine)}))


if __name__ == "__main__":
    main()
