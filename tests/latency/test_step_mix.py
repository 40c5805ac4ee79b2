"""A run whose steps differ in precision costs the mean of its steps."""

import dataclasses

import pytest

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.errors import UserError
from sensitivity.latency import LatencyModel, PredictedLatency, get_device
from sensitivity.latency.pricer import Pricer
from sensitivity.latency.step_mix import StepMix, edge_terms, steps_of
from sensitivity.shapes.table import ShapeTable

from support.latency import BF16, NVFP4, TOKENS_AND_MODULATION

A16 = FormatName.NVFP4_A16
STEPS = 10
TABLE = dataclasses.replace(TOKENS_AND_MODULATION, settings={"num_inference_steps": STEPS})
FORMATS = {"blocks.0.attn.to_q": NVFP4, "blocks.0.norm.linear": NVFP4}
"""M = 100 and M = 1, 10 calls each; a third Linear of M = 100 stays bf16."""
BF16_S = (100 + 100 + 1) * 10 / 1e6 + 1e-3


class Priced(LatencyModel):
    """bf16 takes M us, nvfp4 and int8 half of that, their weight-only forms 2 M, a rotation 0.1
    M more; the rest takes 1 ms.
    """

    target, source, compile_mode, covers = "toy", "predicted", "default", "a table"
    factors = {  # noqa: RUF012
        **{BF16: 1.0, NVFP4: 0.5, A16: 2.0},
        **{FormatName.INT8: 0.5, FormatName.INT8_ROT: 0.6, FormatName.INT8_A16: 2.0},
    }

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        return m * self.factors[format]

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002
        return 1e-3


def quantized_s(policy: StepPolicy, formats: dict[str, FormatName] = FORMATS) -> float:
    return Priced().estimate(TABLE, Assignment(formats, policy)).quantized_s


@pytest.mark.parametrize(
    ("policy", "saved_us"),
    [
        # a step saves 50 + 0.5 us; an edge step in bf16 0, in A16 -(100 + 1)
        (StepPolicy(), 10 * 50.5),
        (StepPolicy(first_steps=2, last_steps=1), 7 * 50.5),
        (StepPolicy(first_steps=6, last_steps=6), 0),
        (StepPolicy(first_steps=2, mode=EdgeMode.A16), 8 * 50.5 - 2 * 101),
        (StepPolicy(last_steps=10, mode=EdgeMode.A16), -10 * 101),
    ],
)
def test_seconds_are_linear_in_the_steps(policy: StepPolicy, saved_us: float) -> None:
    """Each step saves what its kind saves, in all Linears that are quantized, and in no other."""
    assert quantized_s(policy) == pytest.approx(BF16_S - saved_us / 1e6)


def test_a_rotated_weight_needs_a_rotated_input_in_a16() -> None:
    """What the rotation adds to the plain format comes on top at edge steps: 2 + 0.6 - 0.5."""
    rotated = {"blocks.0.attn.to_q": FormatName.INT8_ROT}
    policy = StepPolicy(first_steps=5, mode=EdgeMode.A16)
    expected_us = 5 * 60 + 5 * 210
    assert quantized_s(policy, rotated) == pytest.approx(BF16_S + (expected_us - 1000) / 1e6)
    row = TABLE.linears[0]
    assert Priced().edge_us(row, FormatName.INT8_ROT, EdgeMode.A16) == pytest.approx(210)
    assert Priced().edge_us(row, FormatName.INT8_ROT, EdgeMode.BF16) == 100
    assert edge_terms(NVFP4, EdgeMode.A16) == {A16: 1}


def test_rows_and_note_tell_the_policy() -> None:
    """A row has the mean of its calls, so that calls x time is its part; the note has the words."""
    policy = StepPolicy(first_steps=2, last_steps=1)
    found = Priced().estimate(TABLE, Assignment(FORMATS, policy))
    assert [row.quantized_us for row in found.linears] == pytest.approx([65, 100, 0.65])
    assert [row.bf16_us for row in found.linears] == [100, 100, 1]
    assert "first 2 and last 1 steps in bf16, 70.0% of 10 steps quantized" in found.note
    assert "steps" not in Priced().estimate(TABLE, FORMATS).note


def test_a_plain_policy_changes_nothing() -> None:
    """An Assignment without edge steps is priced as the mapping that it holds."""
    model = PredictedLatency(get_device("b200"))
    assert model.estimate(TABLE, Assignment(FORMATS)) == model.estimate(TABLE, FORMATS)


def test_the_speedup_lies_in_its_interval() -> None:
    """An interval of a mix lies between those of its parts, around the speedup."""
    model = PredictedLatency(get_device("b200"))
    table = dataclasses.replace(
        TABLE,
        linears=tuple(
            dataclasses.replace(row, k=4096, n=4096, m=4096, m_values=((4096, 10),))
            for row in TABLE.linears
        ),
    )
    whole, half, none = (
        model.estimate(table, Assignment(FORMATS, StepPolicy(first_steps=first)))
        for first in (0, 5, 10)
    )
    for low, high in zip(none.interval90 or (), half.interval90 or (), strict=True):
        assert low < high
    for low, high in zip(half.interval90 or (), whole.interval90 or (), strict=True):
        assert low < high
    assert half.interval90 is not None
    assert half.interval90[0] < half.speedup < half.interval90[1]
    assert 1 / half.speedup == pytest.approx((1 / whole.speedup + 1 / none.speedup) / 2)


def test_unknown_steps_are_an_error_with_a_next_step() -> None:
    """A policy is priced by its share of the steps, so the table must say how many there are."""
    policy = StepPolicy(first_steps=1)
    expected = "has `num_inference_steps` None in its settings; expected the number of denoising"
    with pytest.raises(UserError, match=expected):
        Priced().estimate(TOKENS_AND_MODULATION, Assignment(FORMATS, policy))
    with pytest.raises(UserError, match="`num_inference_steps` 0 in"):
        steps_of(dataclasses.replace(TABLE, settings={"num_inference_steps": 0}))
    assert StepMix.of(TOKENS_AND_MODULATION, StepPolicy()).share == 1


def test_a_pricer_passes_the_policy_on() -> None:
    """Its seconds and its bytes are those of the policy, and its formats keep it."""
    pricer = Pricer(run=None, table=TABLE, latency=Priced())  # type: ignore[arg-type]
    policy = StepPolicy(first_steps=5)
    priced = pricer.price("mine", Assignment(FORMATS, policy))
    assert priced.estimate.quantized_s == pytest.approx(BF16_S - 5 * 50.5 / 1e6)
    assert Assignment.of(priced.formats).policy == policy
    memory = priced.estimate.memory
    assert memory is not None
    assert memory.kept_bf16_bytes == 2 * (64 * 64 + 64 * 128)
