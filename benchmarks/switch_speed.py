"""What does a step of a search cost beside the bf16 step of a served model?

One full-size denoiser, random weights, blocks compiled, on the GPU at hand.

First the plain bf16 denoiser, its repeated blocks compiled; then the same denoiser with switchable
Linears, compiled once, set to one skip-list after another: nothing, everything in each format,
random mixtures. For each: milliseconds a step, seconds that the switch took (new weights, known
weights), graphs that torch compiled since the last, the largest memory. With quantized weights kept
on the GPU, and with none kept (`--weight-cache-gb 0`). No weights are downloaded.

    python benchmarks/switch_speed.py --out switch.json
    python benchmarks/switch_speed.py --model tiny-flux --device cpu --repetitions 3

The second runs the whole path on any machine.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.formats.switch import Switch
from sensitivity.latency.timing.tensors import materialize
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.models.compiled_regions import compile_denoiser, restore_denoiser
from sensitivity.models.random_weights import random_component
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec

MIXTURES = 4


def graphs() -> int:
    """Graphs that torch has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def timed(work: Any, device: torch.device) -> float:
    """Seconds, the GPU's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


class Rows:
    """Results, printed as they come."""

    def __init__(self, device: torch.device, repetitions: int) -> None:
        self.device, self.repetitions, self.rows = device, repetitions, list[dict[str, Any]]()

    def measure(self, name: str, step: Any, **more: Any) -> dict[str, Any]:
        """Warm up, time, print."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        before, first_s = graphs(), timed(step, self.device)
        timed(step, self.device)
        seconds = [timed(step, self.device) for _ in range(self.repetitions)]
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        row = {
            "list": name,
            "ms": 1e3 * statistics.median(seconds),
            "first_s": first_s,
            "compiled_graphs": graphs() - before,
            "peak_gb": peak / 1e9,
        } | more
        row["times_bf16"] = row["ms"] / (self.rows[0]["ms"] if self.rows else row["ms"])
        self.rows.append(row | {"seconds": seconds})
        print(
            " ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
            ),
            flush=True,
        )
        return row


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="flux1-dev")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--weight-cache-gb", type=float, nargs="+", default=[1e9, 0.0])
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, spec = torch.device(args.device), resolve_spec(args.model)
    run = run_shapes(spec)
    call = max(run.calls, key=lambda c: c.calls)
    denoiser = random_component(spec, device=args.device).eval()
    rows = Rows(device, args.repetitions)
    call_args, kwargs = materialize(call.args, device), materialize(call.kwargs, device)

    def step() -> Any:
        return denoiser(*call_args, **kwargs)

    with torch.no_grad(), preserved_settings(recompile_limit=16):
        print(compile_denoiser(denoiser, compile_mode="default"))
        rows.measure("bf16, not switchable", step)
        restore_denoiser(denoiser)
        for budget in args.weight_cache_gb:
            torch._dynamo.reset()
            with Switch(denoiser, weight_cache_bytes=int(min(budget, 1e6) * 1e9)) as switch:
                compile_denoiser(denoiser, compile_mode="default")
                lists: dict[str, dict[str, FormatName]] = {"bf16": {}}
                unfit = switch.unfit()
                for fmt in (FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8):
                    wanted = {fqn: fmt for fqn in switch.linears if fqn not in unfit}
                    lists[fmt.value] = {
                        fqn: fmt for fqn in wanted if fqn not in switch.refusals(wanted)
                    }
                for i in range(MIXTURES):
                    rng = random.Random(i)
                    lists[f"mixture {i}"] = {
                        fqn: fmt
                        for fqn in lists["nvfp4"]
                        if (fmt := rng.choice(list(FormatName))) is not FormatName.BF16
                    }
                for name, formats in lists.items():
                    if device.type == "cuda" and not budget:
                        torch.cuda.empty_cache()
                    try:
                        first = timed(lambda formats=formats: switch.set(formats), device)
                        again = timed(lambda formats=formats: switch.set(formats), device)
                        rows.measure(
                            name,
                            step,
                            weights_kept=bool(budget),
                            switch_s=first,
                            switch_again_s=again,
                        )
                    except torch.OutOfMemoryError as error:
                        print(name, "out of memory:", str(error)[:100])
                    if name in ("mxfp8", "nvfp4", "fp8"):
                        switch.forget()
                restore_denoiser(denoiser)
    settings = {
        "model": spec.name,
        "batch_size": spec.pricing.batch_size,
        **run.table.settings,
        "repetitions": args.repetitions,
    }
    document = {
        "benchmark": "switch_speed",
        "machine": describe_environment(args.device),
        "settings": settings,
        "rows": rows.rows,
    }
    if args.out:
        args.out.write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(json.dumps(document, default=str))


if __name__ == "__main__":
    main()
