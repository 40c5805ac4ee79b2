"""What a list needs in memory, with and without a step policy."""

import dataclasses

import pytest

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.formats.registry import get_format
from sensitivity.latency.memory import MemoryEstimate, estimate_memory
from sensitivity.shapes.census import ComponentCounts, RunCounts

from support.latency import FP8, NVFP4, linear, table_of

TABLE = table_of(
    linear("blocks.0.a", 128, 256, {4: 10}),
    linear("blocks.0.b", 256, 128, {4: 10}),
    linear("c", 128, 128, {4: 10}),
)
FORMATS = {"blocks.0.a": FP8, "blocks.0.b": NVFP4}
A_BYTES = 128 * 256 + 4 * 256
B_BYTES = 128 * 256 // 2 + 128 * 256 // 16 + 4
C_BYTES = 2 * 128 * 128


def estimated(policy: StepPolicy) -> MemoryEstimate:
    def weight_bytes(name: FormatName, k: int, n: int) -> int:
        return get_format(name).weight_bytes(k=k, n=n)

    return estimate_memory(TABLE, Assignment(FORMATS, policy), weight_bytes)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (StepPolicy(), None),
        (StepPolicy(first_steps=2, mode=EdgeMode.A16), None),
        (StepPolicy(first_steps=2), 2 * (128 * 256 + 256 * 128)),
        (StepPolicy(last_steps=1), 2 * (128 * 256 + 256 * 128)),
    ],
)
def test_bf16_edge_steps_need_a_second_copy(policy: StepPolicy, kept: int | None) -> None:
    """The bf16 weights of quantized Linears are kept beside them, where edge steps need them."""
    found = estimated(policy)
    stored = A_BYTES + B_BYTES + C_BYTES
    assert found.kept_bf16_bytes == kept
    assert found.quantized_linear_bytes == stored + (kept or 0)
    assert found.bf16_linear_bytes == 2 * (2 * 128 * 256 + 128 * 128)
    assert ("kept_bf16_bytes" in found.to_json()) == (kept is not None)


def test_the_copies_are_in_the_peak() -> None:
    """A policy with bf16 edge steps raises the quantized peak by the copies, and no other."""
    counts = ComponentCounts(
        component="transformer",
        calls=10,
        weight_bytes=2 * (2 * 128 * 256 + 128 * 128) + 1000,
        peak_activation_bytes=500,
    )
    counted = dataclasses.replace(TABLE, run=RunCounts(components=(counts,)))
    peaks = {}
    for policy in (StepPolicy(), StepPolicy(first_steps=1), StepPolicy(mode=EdgeMode.A16)):
        found = estimate_memory(
            counted,
            Assignment(FORMATS, policy),
            lambda name, k, n: get_format(name).weight_bytes(k=k, n=n),
        )
        peaks[policy] = found.quantized_peak_bytes
        assert found.bf16_peak_bytes == counts.weight_bytes + 500
    plain, edges, a16 = peaks.values()
    assert plain == a16 == A_BYTES + B_BYTES + C_BYTES + 1000 + 500
    assert plain is not None
    assert edges == plain + 2 * 2 * 128 * 256


@pytest.mark.parametrize("name", [n for n in FormatName if n is not n.plain])
def test_a_variant_stores_what_its_plain_format_stores(name: FormatName) -> None:
    """Rotated, four-over-six, bounded and weight-only weights have the same codes and scales."""
    shape = {"k": 256, "n": 128}
    plain = get_format(name.plain).weight_bytes(**shape)
    assert get_format(name).weight_bytes(**shape) == plain < 2 * 256 * 128
