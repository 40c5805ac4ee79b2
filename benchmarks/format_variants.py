"""INT8, rotations, bounds and weight-only formats on this GPU: right, and how fast?

    python benchmarks/format_variants.py --out variants.json      # on a GPU, 120 s at most
    python benchmarks/format_variants.py --smoke                  # on a CPU, some seconds, no times

Two questions, for the shapes of FLUX.1-dev (modulation M = 1, text stream M = 512, image stream M =
4608):

1. Are native kernels as far from emulation as roundings reach? torchao's INT8, eagerly, on normal
   inputs, rows of zeros, zeros alone, and inputs 2^40 times as large and as small
   (`formats.native_check`); and what torch.compile makes of torchao's Linears in INT8, INT8 with
   rotation, and FP8 without and with its lower bound, on an input with rows of zeros (NaN in FP8
   without it; such outputs are counted, not compared).
2. What does a Linear take, compiled in a CUDA graph behind its producer, as `sensitivity device
   measure` times it (`latency.timing.shape_runs`)? The times are those of producer and Linear
   together under steady load; the producer alone stands in its own column.

What a kernel refuses is a reason in its cell (torchao's compiled INT8 refuses M <= 16). What there
was no time for is said. The last line is one JSON object, which `--out` writes too.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import first_line
from sensitivity.errors import SensitivityError
from sensitivity.formats import get_format
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.native import describe_versions
from sensitivity.formats.native_check import CheckedShape, compare_native, ulps_apart
from sensitivity.formats.served import format_in
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.timing.shape_runs import ShapeRuns
from sensitivity.latency.timing.stopwatch import copies_past_cache, stopwatch_for, time_runs

SECONDS = 110.0
"""No experiment begins later."""
SHAPES = (
    CheckedShape(1, 3072, 18432, bias=True),
    CheckedShape(512, 3072, 3072, bias=True),
    CheckedShape(4608, 3072, 12288, bias=True),
)
SMALL = (CheckedShape(1, 192, 96, bias=True), CheckedShape(40, 192, 64, bias=True))
TIMED = tuple(
    FormatName(name)
    for name in ("bf16", "fp8", "fp8-lb", "int8", "int8-rot", "fp8-a16", "int8-a16")
)
COMPILED = (FormatName.INT8, FormatName.INT8_ROT, FormatName.FP8, FormatName.FP8_LB)


def quantize(module: nn.Module, formats: Mapping[str, FormatName]) -> None:
    """As `quantize_native`, on whatever device this runs."""
    for fqn, name in formats.items():
        get_format(name).quantize_linear(cast(nn.Linear, module.get_submodule(fqn)))


def why(error: Exception) -> str:
    """One line of an error."""
    return f"{type(error).__name__}: {first_line(error)}"[:160]


def eager_rows(shapes: tuple[CheckedShape, ...], device: str) -> list[dict[str, Any]]:
    """INT8 natively against emulation, in both arithmetics."""
    try:
        return [row.to_json() for row in compare_native(FormatName.INT8, device, shapes=shapes)]
    except SensitivityError as error:
        return [{"format": "int8", "error": why(error)}]


def compiled_row(
    name: FormatName, shape: CheckedShape, device: str, backend: str
) -> dict[str, Any]:
    """One Linear quantized by torchao and compiled, against the compiled arithmetic emulated."""
    row: dict[str, Any] = {"format": name.value, **shape._asdict()}
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).bfloat16().to(device)

    x, linear = normal(shape.m, shape.k), nn.Linear(shape.k, shape.n).bfloat16().to(device)
    x[:: max(2, shape.m // 4)] = 0
    linear.requires_grad_(False)
    arithmetic = Arithmetic.COMPILED if backend == "inductor" else Arithmetic.EAGER
    fmt = format_in(name, arithmetic)
    try:
        operand = fmt.quantize_weight(linear.weight)
        expected = emulated_linear(x, operand, linear.bias, fmt, remember=False)
        quantize(holder := nn.Sequential(linear), {"0": name})
        found = torch.compile(holder, fullgraph=True, dynamic=False, backend=backend)(x)
    except Exception as error:  # whatever torchao, Inductor or a kernel says
        return row | {"error": why(error)}
    fine = found.isfinite() & expected.isfinite()
    apart = ulps_apart(found[fine], expected[fine])
    return row | {
        "largest_ulp": float(apart.max()),
        "mean_ulp": float(apart.mean()),
        "equal": float((found == expected)[fine].double().mean()),
        "not_finite": int((~found.isfinite()).sum()),
    }


def timed_rows(
    shapes: tuple[CheckedShape, ...], device: torch.device, *, smoke: bool, ends: float
) -> Iterator[dict[str, Any]]:
    """Microseconds of every shape in every format, and of its producer."""
    runs = ShapeRuns(
        device=device,
        stopwatch=stopwatch_for(device, "reduce-overhead"),
        backend="eager" if smoke else "inductor",
        quantize=quantize,
    )
    repetitions, waits = (2, {}) if smoke else (9, {"pause_s": 0.005, "settle_s": 0.2})
    for shape in shapes:
        for name in (None, *TIMED):
            row: dict[str, Any] = {"format": name.value if name else "producer", **shape._asdict()}
            if time.monotonic() > ends:
                yield row | {"error": "no time was left"}
                continue
            own = LinearShape(**shape._asdict(), format=name or FormatName.BF16)
            try:
                copies = copies_past_cache(own.call_bytes, device)
                run = runs.producer(own) if name is None else runs.linear(own, copies)
                times = time_runs({"own": run}, repetitions=repetitions, **waits)["own"]
            except Exception as error:  # a kernel that refuses the shape
                yield row | {"error": why(error)}
                continue
            yield row | {"steady_us": list(times.steady), "rested_us": list(times.rested)}


def print_times(rows: list[dict[str, Any]]) -> None:
    """One line a shape: median microseconds, and how many times faster than bf16."""
    shapes = dict.fromkeys((row["m"], row["k"], row["n"]) for row in rows)
    for shape in shapes:
        own = {row["format"]: row for row in rows if (row["m"], row["k"], row["n"]) == shape}
        medians = {
            name: statistics.median(row["steady_us"])
            for name, row in own.items()
            if "error" not in row
        }
        print("M={} K={} N={}".format(*shape))
        for name, row in own.items():
            if "error" in row:
                print(f"    {name:9} {row['error']}")
                continue
            ratio = medians["bf16"] / medians[name] if "bf16" in medians else float("nan")
            print(f"    {name:9} {medians[name]:9.1f} us   {ratio:5.2f}x bf16")


def print_differences(rows: list[dict[str, Any]], title: str) -> None:
    """One line a product that was compared."""
    print(title)
    for row in rows:
        name = " ".join(
            f"{key}={row[key]}" for key in ("arithmetic", "m", "k", "n", "inputs") if key in row
        )
        if row.get("error"):
            print(f"    {row['format']:9} {name}: {row['error']}")
        elif row["largest_ulp"] is None:
            print(f"    {row['format']:9} {name}: nothing finite")
        else:
            print(
                f"    {row['format']:9} {name}: at most {row['largest_ulp']:.2f} ulp, mean"
                f" {row['mean_ulp']:.3f}, equal {row['equal']:.1%}"
            )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--smoke", action="store_true", help="small shapes, nothing compiled")
    parser.add_argument("--device", default="cuda", help="where it runs; --smoke takes the cpu")
    parser.add_argument("--out", type=Path, help="write the JSON object here too")
    options = parser.parse_args()
    device = "cpu" if options.smoke else options.device
    ends = time.monotonic() + SECONDS
    shapes = SMALL if options.smoke else SHAPES
    backend = "eager" if options.smoke else "inductor"
    eager = eager_rows(shapes, device)
    print_differences(eager, "native INT8 against emulation")
    compiled = [compiled_row(name, shapes[1], device, backend) for name in COMPILED]
    print_differences(compiled, "compiled Linears of torchao against emulation, with rows of zeros")
    timed = list(timed_rows(shapes, torch.device(device), smoke=options.smoke, ends=ends))
    print_times(timed)
    found = {
        "environment": describe_environment(device) | describe_versions(),
        "eager": eager,
        "compiled": compiled,
        "times": timed,
        "seconds": round(time.monotonic() - ends + SECONDS, 1),
    }
    if options.out is not None:
        options.out.write_text(json.dumps(found) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
