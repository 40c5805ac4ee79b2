"""What does emulating a format cost beside the bf16 Linear that it replaces?

One row for each format and shape (M, K, N): milliseconds of `nn.functional.linear` in bf16, of
quantizing the activation (ours, and by torchao's primitives), of the whole emulated Linear,
quantizing included, and of another emulated Linear that reads the same x ("again"); overhead =
emulated / bf16 - 1. Weights are quantized before. Eager, no gradients. Each number is the median of
the repetitions, which are interleaved so that a busy machine disturbs all columns alike; the JSON
keeps the smallest as well. The shapes are those of the tiny-flux model at batch 8. This says what a
search pays; it says nothing about the speed of a format on hardware that has it.

    python benchmarks/emulation_speed.py [--device cpu] [--repetitions 30]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.native import describe_versions
from sensitivity.formats.registry import get_format

SHAPES = [
    (2304, 192, 192),
    (2304, 192, 768),
    (2304, 768, 192),
    (2304, 960, 192),
    (256, 192, 768),
    (8, 192, 1152),
]
FORMATS = ["mxfp8", "nvfp4", "fp8"]


def time_interleaved(
    calls: dict[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds of every repetition of every call, after two warm-ups."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(-2, repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repetition >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def measure(
    name: str, shape: tuple[int, int, int], repetitions: int, device: torch.device
) -> dict[str, object]:
    """One row of the table; keys carry their units."""
    m, k, n = shape
    fmt = get_format(name)
    x = torch.randn(m, k, device=device).bfloat16()
    linear = nn.Linear(k, n, dtype=torch.bfloat16, device=device)
    weight = fmt.quantize_weight(linear.weight)
    calls: dict[str, Callable[[], object]] = {
        "bf16": lambda: linear(x),
        "quantize": lambda: fmt.quantize_activation(x),
        "emulated": lambda: emulated_linear(
            x.view(m, k), weight, linear.bias, fmt
        ),  # a new view: quantized anew
    }
    times = time_interleaved(calls, repetitions, device)
    # As to_k and to_v after to_q: on the CPU the quantized x is remembered.
    times |= time_interleaved(
        {"emulated_again": lambda: emulated_linear(x, weight, linear.bias, fmt)},
        repetitions,
        device,
    )
    # Weights always go through torchao's primitives. Apart from the others, whose caches they would
    # empty.
    times |= time_interleaved(
        {"torchao_quantize": lambda: fmt.quantize_weight(x)}, max(3, repetitions // 4), device
    )
    row: dict[str, object] = {"format": name, "m": m, "k": k, "n": n}
    for column, values in times.items():
        row[f"{column}_ms"] = round(statistics.median(values), 4)
        row[f"{column}_min_ms"] = round(min(values), 4)
    bf16_ms = statistics.median(times["bf16"])
    row["overhead"] = round(statistics.median(times["emulated"]) / bf16_ms - 1, 3)
    row["overhead_again"] = round(statistics.median(times["emulated_again"]) / bf16_ms - 1, 3)
    return row


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Print the table, then one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument(
        "--repetitions", type=int, default=30, help="timed calls for each cell (default: 30)"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    machine = {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **describe_versions(),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    columns = (
        f"{'bf16 ms':>10}{'quantize ms':>13}{'(torchao ms)':>14}{'emulated ms':>13}"
        f"{'overhead':>10}{'again ms':>10}{'overhead':>10}"
    )
    print(f"{'format':8}{'M':>6}{'K':>6}{'N':>6}{columns}")
    rows = []
    with torch.no_grad():
        for name in FORMATS:
            for shape in SHAPES:
                row = measure(name, shape, arguments.repetitions, device)
                rows.append(row)
                print(
                    f"{row['format']:8}{row['m']:>6}{row['k']:>6}{row['n']:>6}"
                    f"{row['bf16_ms']:>10.3f}{row['quantize_ms']:>13.3f}"
                    f"{row['torchao_quantize_ms']:>14.3f}{row['emulated_ms']:>13.3f}"
                    f"{row['overhead']:>10.0%}"
                    f"{row['emulated_again_ms']:>10.3f}{row['overhead_again']:>10.0%}"
                )
    print(
        json.dumps(
            {
                "benchmark": "emulation_speed",
                "repetitions": arguments.repetitions,
                "machine": machine,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
