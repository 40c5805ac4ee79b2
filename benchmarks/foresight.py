"""Does the prediction hold for models that it was not fitted on? Predictions first, then
measurements beside them.

    python benchmarks/foresight.py predict                    # results/foresight/predicted-*.json
    python benchmarks/foresight.py measure --minutes 9        # on an H100 or H200
    python benchmarks/foresight.py reprice                    # from the kept shapes, by this code
    python benchmarks/foresight.py report                     # the table of errors, as Markdown

Each case is one denoiser call: a model, a batch size, a runtime and a skip-list
(`foresight_cases.py`), in FP8. Three numbers stand side by side, each with its interval:

    predicted     from the target's constants; committed before anything was measured
    from shapes   every Linear and attention timed one by one, the rest predicted
    end to end    the denoiser with random weights, run in that runtime, lists in turns

`measure` takes the most valuable cases first, appends each as it ends, and skips what its file has.
`--part 0/2` takes every second model, for a second GPU. `--warm` runs shallow models once and keeps
nothing but torch's compile cache: as many of these as the host has cores for, before the GPU is
timed (`TORCHINDUCTOR_CACHE_DIR` is shared). On a CPU `--device cpu --model tiny` walks the path.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import foresight_cases as cases
import foresight_measure
import foresight_report
from foresight_cases import BATCHES, MODELS, RUNTIMES, Prepared, prepare

from sensitivity.core.json_files import write_whole
from sensitivity.errors import SensitivityError
from sensitivity.latency.devices import get_device

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "foresight"
TARGETS = ("h100", "h200")
PRICING = ("sensitivity/latency", "sensitivity/shapes")
"""What decides a prediction, besides the models' configs."""


def code() -> dict[str, str]:
    """The commit, and the hash of what prices, so that anybody can tell which code foresaw."""
    digest = hashlib.sha256()
    for folder in PRICING:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".json"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = bool(git("status", "--porcelain", "--", *PRICING))
    commit = git("rev-parse", "HEAD") or "unknown"
    return {
        "commit": commit + (" with changes that were not committed" if changed else ""),
        "pricing_sha256": digest.hexdigest(),
    }


def predict_list(
    model: Prepared, target: str, runtime: str, name: str, predictor: Any
) -> dict[str, Any]:
    """One predicted case."""
    case = {
        "model": model.name,
        "batch_size": model.batch,
        "runtime": runtime,
        "list": name,
        "quantized": len(model.lists[name]),
        "fingerprint": model.fingerprint(name),
    }
    try:
        found = predictor.estimate(model.table, model.formats(name))
    except SensitivityError as error:
        return case | {"reason": str(error)}
    return case | cases.numbers_of(found) | {"target": target}


def predict(
    targets: Iterable[str], models: Iterable[str], folder: Path, edition: str = ""
) -> list[Path]:
    """Write the predictions of every case, one file a target.

    Predictions that were measured stay: later ones, of other code, get another edition.
    """
    written, stamp, models = [], code(), list(models)
    prepared = {
        (name, batch): prepare(name, batch=batch, target="h100")
        for name in models
        for batch in BATCHES
    }
    for target in targets:
        predictors = {name: cases.predictor(get_device(target), name) for name in RUNTIMES}
        rows = []
        for model in prepared.values():
            print(f"{target}: {model.name}, batch {model.batch}", file=sys.stderr)
            for runtime, predictor in predictors.items():
                rows += [predict_list(model, target, runtime, x, predictor) for x in model.lists]
        document = {
            "benchmark": "foresight, predicted",
            "target": target,
            "format": cases.FORMAT.value,
            "unit": "one denoiser call",
            "code": stamp,
            "models": {name: describe(prepared[name, BATCHES[0]]) for name in models},
            "cases": rows,
        }
        path = folder / f"predicted-{target}{edition}.json"
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        write_whole(path, (text + "\n").encode())
        written.append(path)
    return written


def describe(model: Prepared) -> dict[str, Any]:
    """What a model is, for readers of the file."""
    return {
        "title": model.spec.title,
        "denoiser": next(iter(model.run.classes.values())),
        "weights": model.run.weight_values,
        "linears": len(model.table.linears),
        "settings": dict(model.table.settings),
        "refused": dict(model.refused),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    foresee = commands.add_parser("predict", help="write the predictions of every case")
    foresee.add_argument("--target", action="append", help="h100 and h200 by default")
    foresee.add_argument("--edition", default="", help='of the files\' names, such as "-2"')
    measure = commands.add_parser("measure", help="measure the same cases on the GPU at hand")
    foresight_measure.add_arguments(measure)
    again = commands.add_parser("reprice", help="price the measured shapes with this code")
    report = commands.add_parser("report", help="the tables of errors, as Markdown")
    for command in (foresee, measure):
        command.add_argument("--model", action="append", help="by default all of MODELS")
    for command in (foresee, measure, again, report):
        command.add_argument("--folder", type=Path, default=RESULTS, help="of the result files")
    return parser.parse_args()


def main() -> None:
    """Run the command; the last line of stdout is one JSON object."""
    asked = arguments()
    if asked.command == "predict":
        files = predict(asked.target or TARGETS, asked.model or MODELS, asked.folder, asked.edition)
        print(json.dumps({"written": [path.name for path in files]}))
    elif asked.command == "measure":
        print(json.dumps(foresight_measure.measure(asked, asked.model or MODELS)))
    elif asked.command == "reprice":
        print(json.dumps({"repriced": foresight_measure.reprice(asked.folder)}))
    else:
        text, summary = foresight_report.report(asked.folder)
        print(text)
        print(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
