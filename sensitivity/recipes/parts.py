"""Which fields of a recipe follow from formats and shapes alone? Layers, latency and memory.

    {**layer_records(formats), "latency": latency_record(estimate)}

Functions return mappings as they stand in a recipe's JSON; `Recipe.from_mapping` checks them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.fqns import block_of, list_of
from sensitivity.core.step_policy import EdgeMode
from sensitivity.formats.registry import get_format
from sensitivity.latency import LatencyEstimate
from sensitivity.recipes.reasons import Worth, patterns_with_reasons

if TYPE_CHECKING:
    from torch import nn

    from sensitivity.latency.timing.timed_lists import TimedList


NEVER_CALLED = "never called in the profiled run"
"""Why a Linear that no run calls stays bf16."""


def layer_records(
    formats: Mapping[str, FormatName],
    *,
    fixed: Mapping[str, str] | None = None,
    worth: Mapping[str, Worth] | None = None,
) -> dict[str, Any]:
    """The fields `patterns`, `layers` and `block_patterns`.

    Args:
        formats: {FQN: format} of every Linear.
        fixed, worth: why Linears stay bf16, see `recipes.reasons`.
    """
    patterns = patterns_with_reasons(formats, fixed=fixed, worth=worth)
    return {
        "patterns": [pattern.model_dump() for pattern in patterns],
        "layers": dict(formats),
        "block_patterns": count_stack_patterns(formats),
    }


def count_stack_patterns(formats: Mapping[str, str]) -> dict[str, int]:
    """{list of blocks: number of distinct format patterns among its blocks}, from names alone.

    Regional compilation makes one graph for each pattern of a block class. Blocks of lists that
    have the same name ("transformer_blocks") are taken to be of one class. That is wrong for two
    denoisers whose lists are called alike; `models.compiled_regions` counts by class.
    """
    patterns: dict[str, dict[str, list[tuple[str, str]]]] = {}  # {list: {block: its formats}}
    for fqn, name in formats.items():
        if block := block_of(fqn):
            rows = patterns.setdefault(list_of(block), {}).setdefault(block, [])
            rows.append((fqn.removeprefix(f"{block}."), str(name)))
    return {
        blocks_of: len({tuple(sorted(rows)) for rows in blocks.values()})
        for blocks_of, blocks in patterns.items()
    }


def weight_bytes(denoiser: "nn.Module", formats: Mapping[str, FormatName]) -> tuple[int, int]:
    """Bytes of the denoisers' parameters in bf16, and in these formats.

    A quantized Linear has the codes and scales that torchao stores. Its bf16 weight comes on top
    where `formats` is an `Assignment` whose edge steps run in bf16 (`beside_bytes`).
    """
    bf16 = sum(2 * p.numel() for p in denoiser.parameters())
    held, shapes = bf16, {}
    for fqn, name in formats.items():
        n, k = denoiser.get_parameter(f"{fqn}.weight").shape  # (N, K)
        shapes[fqn] = (k, n)
        held += get_format(name).weight_bytes(k=k, n=n) - 2 * n * k
    return bf16, held + beside_bytes(formats, shapes)


def beside_bytes(formats: Mapping[str, FormatName], shapes: Mapping[str, tuple[int, int]]) -> int:
    """Bytes of the bf16 weights that a step policy keeps beside the quantized ones.

    Args:
        formats: {FQN: format}; 0 bytes where it is no `Assignment`, its policy is plain, or its
            edge steps run with quantized weights.
        shapes: {FQN: (K, N)} of every Linear that is counted.
    """
    policy = Assignment.of(formats).policy
    if policy.is_plain or policy.mode is not EdgeMode.BF16:
        return 0
    kept = (shapes[fqn] for fqn in quantized(formats) if fqn in shapes)
    return sum(2 * k * n for k, n in kept)


FRONT = "the sum of shapes, by which the search ranks"
"""What the seconds of a front's members cover."""


def made_record(command: str | None) -> dict[str, Any]:
    """The field `made`: today, by this command line."""
    return {"date": datetime.now(UTC).date().isoformat(), "command": command}


def latency_record(estimate: LatencyEstimate, quantized_s: float | None = None) -> dict[str, Any]:
    """The field `latency`.

    Args:
        estimate: of the run, in bf16 and quantized.
        quantized_s: seconds of another skip-list's quantized run; None is that of the estimate.
    """
    interval = None if quantized_s is not None else estimate.interval90
    seconds = estimate.quantized_s if quantized_s is None else quantized_s
    record = {
        "bf16_s": estimate.bf16_s,
        "quantized_s": seconds,
        "speedup": estimate.bf16_s / seconds,
        "source": estimate.source,
        "target": estimate.target,
        "batch_size": estimate.batch_size,
        "compile_mode": estimate.compile_mode,
        "runtime": estimate.runtime,
        "covers": estimate.note if quantized_s is None else FRONT,
        "speedup_interval90": None if interval is None else list(interval),
    }
    if estimate.scale is None:
        return record
    return record | {"stands_for": estimate.scale.factor, "note": estimate.note}


def timing_record(timed: "TimedList", covers: str) -> dict[str, Any]:
    """An entry of `timings`: a skip-list that was timed end to end, or why it was not."""
    record: dict[str, Any] = {
        "name": timed.name,
        "seconds": list(timed.rounds_s),
        "bf16_seconds": list(timed.bf16_rounds_s),
        "source": "measured",
        "covers": covers,
    }
    if timed.failure:
        return record | {"failure": timed.failure}
    ratio = timed.ratio
    interval = None if ratio.interval90 is None else list(ratio.interval90)
    return record | {"speedup": ratio.value, "speedup_interval90": interval}
