"""What does it cost to profile a large model without its weights?

One process a study: wall seconds and peak memory, imports included.

    uv run python benchmarks/profile_cost.py [STUDY ...]

The last line is one JSON object. `maximum resident set` is what the operating system says of the
child process.
"""

import json
import os
import subprocess
import sys
import time

STUDIES = ("flux1-dev", "qwen-image", "ltx2")


def cost(study: str) -> dict[str, float | int | str]:
    """Profile a study in a process of its own."""
    begun = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "sensitivity.cli", "profile", "--model", study, "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    table = json.loads(child.stdout.read())
    _, _, usage = os.wait4(child.pid, 0)
    return {
        "study": study,
        "linears": len(table["linears"]),
        "wall_s": round(time.monotonic() - begun, 2),
        "peak_rss_mib": usage.ru_maxrss // 1024,
    }


def main() -> None:
    """Print a row a study, then everything as JSON."""
    rows = []
    print(f"{'study':14} {'Linears':>8} {'wall s':>8} {'peak MiB':>9}")
    for study in sys.argv[1:] or STUDIES:
        row = cost(study)
        rows.append(row)
        print(f"{row['study']:14} {row['linears']:8} {row['wall_s']:8} {row['peak_rss_mib']:9}")
    print(json.dumps({"profile_cost": rows}))


if __name__ == "__main__":
    main()
