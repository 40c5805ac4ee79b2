"""Which target file do the measured shapes of a benchmark's result make?

    uv run python benchmarks/target_of_result.py benchmarks/results/2026-11-21-fp8-flux-h100.json \
        --out sensitivity/latency/targets/h100.json

Takes the "shape_times" and the "machine" of a result that was measured before `sensitivity device
measure` was there. The file says that it is not complete: there are no GEMMs or quantizers alone,
no launch costs and no refusals, and no constants are fitted. Prints what it wrote as one JSON line.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from sensitivity.latency.devices import DEVICES, find_device
from sensitivity.latency.shape_times import ShapeTime
from sensitivity.latency.targets.target_file import TargetFile, TimedRow

DATED = re.compile(r"(\d{4}-\d{2}-\d{2})-")


def target_of(result: dict[str, Any], day: str, source: str) -> TargetFile:
    """The target of a result."""
    machine = result["machine"]
    chip = find_device(machine["device"])
    if chip is None:
        raise SystemExit(f"{machine['device']} is none of {', '.join(DEVICES)}")
    packages = ("torch", "torchao", "mslk", "cuda", "python")
    rows = [ShapeTime.from_json(row) for row in result["shape_times"].values()]
    return TargetFile(
        name=chip.name,
        device=machine["device"],
        capability=machine["capability"],
        sm_count=chip.sm_count,
        memory_bytes=int(machine["gpu_memory_bytes"]),
        driver=machine["driver"],
        versions={key: machine[key] for key in packages if key in machine},
        compile_mode=result["settings"]["shapes_mode"],
        measured=day,
        complete=False,
        notes=(
            f"only the shapes of {result['settings']['model']}, from {source}: no GEMMs or"
            " quantizers alone, no launch costs, no refusals",
        ),
        formats=(result["settings"]["format"],),
        rows=[TimedRow.of(row) for row in rows],
    )


def main() -> None:
    """Read a result, write a target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="JSON of a benchmark")
    parser.add_argument("--out", type=Path, required=True, help="target file")
    arguments = parser.parse_args()
    dated = DATED.match(arguments.result.name)
    if dated is None:
        raise SystemExit(f"{arguments.result.name} does not begin with a date")
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    target = target_of(result, dated[1], arguments.result.as_posix())
    text = json.dumps(target.to_json(), separators=(",", ":")) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(json.dumps({"target": target.name, "rows": len(target.rows), "bytes": len(text)}))


if __name__ == "__main__":
    main()
