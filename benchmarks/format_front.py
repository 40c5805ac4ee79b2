"""What do variants of a format bring at equal seconds? Lists with and without each of them.

    python benchmarks/format_front.py --model tiny-flux --out runs/formats --target b200
    python benchmarks/format_front.py --model tiny-flux --out /tmp/try --smoke    # a CPU, minutes

For each set of formats of `SETS` the knapsack (`search.knapsack`) finds the list of least damage at
several savings, with priced seconds of the target. The damage of a group in a format is the error
of its rollout to the power of `POWER`. Every list is then drawn, on fresh prompts that nothing else
has used, and its typical LPIPS is what counts. So this compares what sets of formats have to offer,
with one prior for all, and no search's luck.

Quality is emulated, seconds are predicted. A saving is a part of what the target's first set saves
with everything quantized. Rows are written as they come; the last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measures import Array
from scored_model import ScoredModel

from sensitivity.core.format_name import FormatName, parse_formats
from sensitivity.fidelity.typical import typical
from sensitivity.latency.pricer import latency_model
from sensitivity.search.calibration.choosing import get_estimator
from sensitivity.search.calibration.jobs import jobs_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.knapsack import Knapsack

SETS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "b200": (
        ("nvfp4",),
        ("nvfp4-4o6",),
        ("mxfp8", "nvfp4"),
        ("mxfp8", "nvfp4-4o6"),
        ("mxfp8", "nvfp4", "nvfp4-4o6"),
        ("mxfp8", "nvfp4", "nvfp4-a16"),
        ("mxfp8", "nvfp4", "fp8-a16"),
    ),
    "h100": (("fp8",), ("int8",), ("int8-rot",), ("fp8", "int8-rot"), ("fp8", "fp8-a16")),
    "rtx4090": (("fp8",), ("int8",), ("int8-rot",), ("fp8", "int8", "int8-rot")),
    "a100": (("int8",), ("int8-rot",), ("int8", "int8-rot"), ("int8", "int8-a16")),
}
"""Sets of formats by target; savings are parts of what the first one saves at most."""
SAVINGS = (0.3, 0.5, 0.7, 0.85, 0.95)
POWER = 1.5
"""Damage of a group is its rollout's error to this power. Of several formats, errors of latents
must be comparable: LPIPS goes as about their power of 1.8 (LOG.md), sums of groups as about 1."""


def rollout_errors(
    model: ScoredModel, candidates: Candidates, *, prompts: int, states: int | None
) -> Array:
    """(groups, options) errors of rollouts; 0 for bf16, inf for what a group does not take."""
    places = jobs_of(candidates)
    errors = np.full((len(candidates.groups), len(candidates.formats)), np.inf)
    errors[:, 0] = 0.0
    estimator = get_estimator("rollout")
    steps = int(model.spec.settings["num_inference_steps"])
    found = estimator.run(
        model.evaluator,
        list(dict.fromkeys(places.values())),
        states=states or estimator.default_states(steps),
        prompts=prompts,
    )
    by_job = {each.job: each.error for each in found}
    for place, job in places.items():
        errors[place] = by_job[job]
    return errors


def compare(model: ScoredModel, target: str, args: argparse.Namespace, write: Any) -> None:
    """Score the best list of each set at each saving."""
    begun = time.monotonic()
    union = parse_formats(list(dict.fromkeys(name for names in SETS[target] for name in names)))
    candidates = make_candidates(
        model.prepared.priced,
        model.spec,
        formats=union,
        latency=latency_model(model.spec, target),
        unfit=model.evaluator.switch.unfit(),
    )
    states = 1 if args.smoke else None
    errors = rollout_errors(model, candidates, prompts=args.prompts, states=states)
    gains = np.array([group.gains_s for group in candidates.groups])
    damages = np.where(np.isfinite(errors), errors, 1.0) ** POWER
    write(
        kind="calibrated",
        target=target,
        seconds=round(time.monotonic() - begun, 1),
        errors={
            str(fmt): round(float(np.exp(np.log(of[np.isfinite(of)]).mean())), 5)
            for fmt, of in zip(candidates.formats[1:], errors.T[1:], strict=True)
        },
    )
    first_most = None
    for names in SETS[target]:
        formats = {FormatName.BF16, *parse_formats(names)}
        columns = np.array([fmt in formats for fmt in candidates.formats])
        knapsack = Knapsack(gains, np.isfinite(errors) & columns)
        first_most = knapsack.most_gain if first_most is None else first_most
        for saving in SAVINGS[:2] if args.smoke else SAVINGS:
            wanted = saving * first_most
            if wanted > knapsack.most_gain or time.monotonic() - args.begun > args.time_limit_s:
                continue
            choice = tuple(int(o) for o in knapsack.solve(damages, wanted * (1 - 1e-9)))
            drawn = model.score(candidates.decode(choice), "held_out")
            write(
                kind="list",
                target=target,
                formats=list(names),
                saving=saving,
                seconds=candidates.latency_s(choice),
                speedup=round(candidates.bf16_s / candidates.latency_s(choice), 4),
                typical=typical(drawn.per_prompt, None),
                mean=float(np.mean(drawn.per_prompt)),
                used={
                    str(fmt): sum(candidates.formats[o] is fmt for o in choice)
                    for fmt in candidates.formats
                    if fmt in formats
                },
            )


def table_of(rows: list[dict[str, Any]]) -> str:
    """Typical LPIPS by set and saving, and what it is of the first set's."""
    lines = []
    lists = [row for row in rows if row["kind"] == "list"]
    for target in dict.fromkeys(row["target"] for row in lists):
        own = [row for row in lists if row["target"] == target]
        first = {
            row["saving"]: row["typical"] for row in own if row["formats"] == own[0]["formats"]
        }
        lines.append(f"{target}: typical LPIPS at savings {', '.join(map(str, first))}")
        for names in dict.fromkeys(tuple(row["formats"]) for row in own):
            cells = [
                f"{row['typical']:.4f} ({row['typical'] / first[row['saving']]:.2f})"
                for row in own
                if tuple(row["formats"]) == names and first.get(row["saving"])
            ]
            lines.append(f"  {' + '.join(names):44} {'  '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Compare, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-flux")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", action="append", choices=tuple(SETS))
    parser.add_argument("--fresh", type=int, default=48, help="fresh prompts")
    parser.add_argument("--prompts", type=int, default=4, help="search prompts of a rollout")
    parser.add_argument("--time-limit-s", type=float, default=1e9)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--smoke", action="store_true", help="few prompts and savings, on a CPU")
    args = parser.parse_args()
    args.begun = time.monotonic()
    if args.smoke:
        args.fresh, args.prompts, args.device = 2, 1, "cpu"
    args.out.mkdir(parents=True, exist_ok=True)
    model = ScoredModel(
        args.model, args.out, device=args.device, fresh=args.fresh, rank=0, keep=False
    )
    rows: list[dict[str, Any]] = []
    with (args.out / "formats.jsonl").open("a", buffering=1, encoding="utf-8") as file:

        def write(**row: Any) -> None:
            rows.append(row)
            file.write(json.dumps(row) + "\n")

        for target in args.target or ["b200"]:
            compare(model, target, args, write)
    print(table_of(rows))
    print(json.dumps({"model": args.model, "fresh": args.fresh, "rows": len(rows)}))


if __name__ == "__main__":
    main()
