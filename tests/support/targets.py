"""A target file as `device measure` writes it, with times that a known model gives."""

import datetime
import random
from collections.abc import Iterable, Mapping
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.latency import PredictedLatency, get_device
from sensitivity.latency.kernel_shapes import GemmShape, QuantizerShape
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.targets.target_file import TargetFile

SHAPES = (
    (1, 3072, 18432),
    (512, 3072, 3072),
    (512, 12288, 3072),
    (4096, 3072, 12288),
    (4608, 3072, 3072),
    (4608, 15360, 3072),
)


def target_data(
    chip: str = "h100",
    *,
    constants: Mapping[str, float] | None = None,
    shapes: Iterable[tuple[int, int, int]] = SHAPES,
    noise: float = 0.0,
    **changes: Any,
) -> dict[str, Any]:
    """The JSON of a measured chip whose kernels do what its constants, changed, say."""
    device = get_device(chip)
    model = PredictedLatency(device, constants=device.kernels.replaced(constants or {}))
    formats = [FormatName.BF16, *(f for f in device.peaks_flops_per_s if f.is_quantized)]
    draw = random.Random(0)

    def row(key: object, us: float) -> dict[str, Any]:
        us *= 1 + noise * draw.uniform(-1, 1)
        return {"key": str(key), "us": [us, us], "rested_us": [us, us], "copies": 2}

    data: dict[str, Any] = {
        "schema": "sensitivity-target/1",
        "name": f"my-{chip}",
        "device": f"NVIDIA {chip.upper()}",
        "capability": device.capability,
        "sm_count": device.sm_count,
        "memory_bytes": device.memory_bytes,
        "versions": {"torch": "2.11.0", "torchao": "0.18.0"},
        "compile_mode": "reduce-overhead",
        "measured": str(datetime.date(2026, 11, 29)),
        "complete": True,
        "formats": [f.value for f in formats[1:]],
        "limits": {"copy_bytes_per_s": 0.85 * device.bandwidth_bytes_per_s},
        "rows": [],
        "gemms": [],
        "quantizers": [],
    }
    for m, k, n in shapes:
        for name in formats:
            shape = {"m": m, "k": k, "n": n, "format": name}
            data["rows"].append(row(LinearShape(**shape, bias=True), model.linear_us(**shape)))
            data["gemms"].append(
                row(GemmShape(**shape, bias=True), model.kernels.gemm(m, k, n, name).us)
            )
            if name.is_quantized:
                us = model.sibling_us(**shape)
                sibling = LinearShape(**shape, bias=True, sibling=True)
                data["rows"].append(row(sibling, us))
                kernels = model.kernels.quantize(m, k, name)
                if kernels:
                    data["quantizers"].append(
                        row(QuantizerShape(m=m, k=k, format=name), sum(x.us for x in kernels))
                    )
    return data | changes


def make_target(chip: str = "h100", **options: Any) -> TargetFile:
    """`target_data` as the record."""
    return TargetFile.model_validate(target_data(chip, **options))
