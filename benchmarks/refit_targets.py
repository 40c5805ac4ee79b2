"""Fits the kernel constants of the shipped target files again, after the price model has changed.

    uv run python benchmarks/refit_targets.py     # rewrites sensitivity/latency/targets/*.json

Only files that have a fit get a new one. Prints the errors of the old and the new constants on each
file's own rows, and ends with one JSON line.
"""

import json
from pathlib import Path

from sensitivity.latency.devices import device_of_target
from sensitivity.latency.fitting import predict_rows, row_errors
from sensitivity.latency.targets import target_file
from sensitivity.latency.targets.target_file import TargetFile, load_target, round_numbers
from sensitivity.latency.targets.target_fit import fit_rows, fit_target

FOLDER = Path(target_file.__file__).parent


def errors_of(target: TargetFile) -> dict[str, float]:
    """Errors of a file's constants on its rows."""
    device, rows = device_of_target(target), list(fit_rows(target))
    found: dict[str, float] = round_numbers(
        {
            name: float(error)
            for name, error in row_errors(rows, predict_rows(device, device.kernels, rows)).items()
        }
    )
    return found


def main() -> None:
    """Refit every file that has a fit."""
    result = {}
    for path in sorted(FOLDER.glob("*.json")):
        target = load_target(path)
        if target.kernels is None:
            continue
        fitted = target.model_copy(update={"kernels": fit_target(target)})
        before, after = errors_of(target), errors_of(fitted)
        text = json.dumps(fitted.to_json(), separators=(",", ":")) + "\n"
        path.write_text(text, encoding="utf-8")
        result[target.name] = {"before": before, "after": after}
        for name, errors in result[target.name].items():
            print(f"{target.name:10} {name:7} {errors}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
