"""Parts of a recipe that follow from formats and shapes: layers, latency, memory, block patterns."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of, list_of
from sensitivity.core.pattern_cover import compress
from sensitivity.formats.registry import get_format
from sensitivity.latency import LatencyEstimate


def count_stack_patterns(formats: Mapping[str, FormatName]) -> dict[str, int]:
    """{list of blocks, as in "transformer_blocks": number of distinct format patterns among its
    blocks}, from names alone.

    Regional compilation makes one graph for each where lists that are called alike, as in two
    denoisers, have a class of their own; `latency.regions.count_block_patterns` counts by class.
    """
    patterns: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for fqn, name in formats.items():
        block = block_of(fqn)
        if block:
            patterns.setdefault(list_of(block), {}).setdefault(block, []).append(
                (fqn.removeprefix(f"{block}."), name.value)
            )
    return {
        kind: len({tuple(sorted(rows)) for rows in blocks.values()})
        for kind, blocks in patterns.items()
    }


def weight_bytes(denoiser: nn.Module, formats: Mapping[str, FormatName]) -> tuple[int, int]:
    """Bytes of the denoisers' parameters in bf16, and with these formats (codes and scales as
    torchao stores them).
    """
    bf16 = sum(2 * p.numel() for p in denoiser.parameters())
    quantized = bf16
    for fqn, name in formats.items():
        n, k = denoiser.get_parameter(f"{fqn}.weight").shape
        quantized += get_format(name).weight_bytes(k=k, n=n) - 2 * n * k
    return bf16, quantized


def layer_records(formats: Mapping[str, FormatName]) -> dict[str, Any]:
    """What a recipe says of its Linears: `layers`, `skip`, `patterns` and `block_patterns`."""
    skip = [fqn for fqn, name in formats.items() if name is FormatName.BF16]
    patterns = [pattern.model_dump() for pattern in compress(skip, formats)]
    return {
        "layers": dict(formats),
        "skip": skip,
        "patterns": patterns,
        "block_patterns": count_stack_patterns(formats),
    }


def latency_record(estimate: LatencyEstimate, quantized_s: float) -> dict[str, Any]:
    """What a recipe says of seconds:

    `quantized_s` beside the bf16 run that was priced or measured with it.
    """
    scale = (
        {}
        if estimate.scale is None
        else {"stands_for": estimate.scale.factor, "note": estimate.note}
    )
    return {
        "bf16_s": estimate.bf16_s,
        "quantized_s": quantized_s,
        "speedup": estimate.bf16_s / quantized_s,
        "source": estimate.source,
        "target": estimate.target,
        "batch_size": estimate.batch_size,
        "compile_mode": estimate.compile_mode,
        **scale,
    }
