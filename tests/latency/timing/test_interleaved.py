"""Skip-lists are timed in turns, paired round by round; one that does not run does not stop the
others.

On a CPU, with a toy denoiser and fake clocks: quantizing does nothing but note what it was asked
for, and the numbers are those of the fake.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError, UserError
from sensitivity.latency.runtimes import runtime_of
from sensitivity.latency.timing import interleaved
from sensitivity.latency.timing.interleaved import interleave, plan_groups
from sensitivity.latency.timing.timed_lists import Conditions, Unit

from support.small_denoisers import TwoKinds, two_kinds

pytestmark = pytest.mark.usefixtures("small_heap")

FP8 = FormatName.FP8
LISTS: dict[str, dict[str, FormatName]] = {
    "all": dict.fromkeys(["wide_blocks.0.linear", "wide_blocks.1.linear", "proj_out"], FP8),
    "half": {"proj_out": FP8},
}
SPEED = {0: 4.0, 3: 2.0, 1: 3.0}
"""Seconds of a call by how many Linears are quantized."""


def quantized_linears(module: nn.Module) -> int:
    """How many weights the fake quantizing has made."""
    return sum(hasattr(weight, "quantized_to") for weight in module.parameters())


@dataclass
class Bench:
    """Fake kernels and a fake clock, which drifts by 10 % a call."""

    failing: dict[str, Exception] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    drift: float = 1.0
    asked: list[list[str]] = field(default_factory=list)

    def quantize(self, module: nn.Module, formats: Mapping[str, FormatName]) -> None:
        for fqn in formats:
            if fqn in self.failing:
                raise self.failing[fqn]
            linear = module.get_submodule(fqn)
            linear.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
            linear.weight.quantized_to = formats[fqn]  # type: ignore[assignment,union-attr]
        self.asked.append(sorted(formats))

    def units_of(self, copy: nn.Module) -> list[Unit]:
        x = torch.ones(4, 16, dtype=torch.bfloat16)

        def work() -> object:
            return copy(x), copy

        return [Unit(work=work, calls=10), Unit(work=work, calls=1)]

    def clock(self, unit: Unit, about_s: float, device: torch.device) -> float:
        assert about_s > 0
        assert device.type == "cpu"
        count = quantized_linears(unit.work()[1])  # type: ignore[index]
        self.order.append(count)
        self.drift *= 1.001
        return SPEED[count] * self.drift


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A fresh bench in the place of the real kernels."""
    made = Bench()
    monkeypatch.setattr(interleaved, "quantize_native", made.quantize)
    return made


def conditions(bench: Bench, **changes: Any) -> Conditions:
    """How the toy is timed."""
    known: dict[str, Any] = {
        "runtime": runtime_of("default"),
        "device": "cpu",
        "rounds": 4,
        "warmups": 1,
        "backend": "eager",
        "clock": bench.clock,
    }
    return Conditions(**(known | changes))


def test_lists_are_timed_in_turns_and_paired(bench: Bench) -> None:
    """Each round has every list once, in an order that differs from round to round; the ratio is
    that of the lists although the clock drifts, and every repetition is kept.
    """
    denoiser = two_kinds()
    before = [p for _, p in denoiser.named_parameters()]
    found = interleave(denoiser, LISTS, bench.units_of, conditions(bench))
    assert list(found) == ["none", "all", "half"]
    rounds = [tuple(bench.order[i : i + 6 : 2]) for i in range(0, len(bench.order), 6)]
    assert len(rounds) == 4
    assert all(sorted(row) == [0, 1, 3] for row in rounds)
    assert len(set(rounds)) > 1
    for name, ratio in (("none", 1.0), ("all", 2.0), ("half", 4 / 3)):
        timed = found[name]
        assert [len(timing.seconds) for timing in timed.timings] == [4, 4]
        assert [timing.calls for timing in timed.timings] == [10, 1]
        first, second = timed.timings
        assert timed.rounds_s == pytest.approx(
            [10 * a + b for a, b in zip(first.seconds, second.seconds, strict=True)]
        )
        assert timed.ratio.value == pytest.approx(ratio, rel=0.01)
        assert timed.bf16 is found["none"].timings
        assert first.runtime == "torchao-compiled"
        assert first.compiled == "repeated blocks (Wide, Gated)"
    assert found["all"].ratio.interval90 is not None
    assert quantized_linears(denoiser) == 0
    assert bench.asked == [[], sorted(LISTS["all"]), []], "what lists quantize alike is shared"
    held = {name: timed.timings[0].weight_bytes for name, timed in found.items()}
    assert len(set(held.values())) == 1
    assert all(a is b for a, b in zip(before, denoiser.parameters(), strict=True))
    again = Bench()
    interleave(two_kinds(), {}, again.units_of, conditions(again))
    assert again.order == [0] * 8


def test_a_list_that_fails_is_a_row_with_its_reason(bench: Bench) -> None:
    """A kernel's refusal, too many block patterns and what goes wrong while it is timed leave the
    others as they are.
    """
    gates = [f"gated_blocks.{i}.gate" for i in range(3)]
    bench.failing[gates[1]] = RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED: no algorithm")
    lists = LISTS | {
        "refused": dict.fromkeys(gates, FP8),
        "many": {"wide_blocks.0.linear": FP8, "wide_blocks.1.linear": FormatName.MXFP8},
    }
    calls = 0

    def dying(unit: Unit, about_s: float, device: torch.device) -> float:
        nonlocal calls
        seconds = bench.clock(unit, about_s, device)
        calls += bench.order[-1] == 1
        if calls == 3 and bench.order[-1] == 1:
            raise RuntimeError("CUDA error: an illegal memory access")
        return seconds

    said: list[str] = []
    found = interleave(
        two_kinds(),
        lists,
        bench.units_of,
        conditions(bench, recompile_limit=1, clock=dying, say=said.append),
    )
    assert "A kernel refused the shape" in found["refused"].failure
    assert "2 distinct format patterns among the blocks of Wide" in found["many"].failure
    assert "illegal memory access" in found["half"].failure
    assert found["half"].timings == ()
    assert len(found["all"].rounds_s) == len(found["none"].rounds_s) == 4
    assert found["all"].failure == ""
    assert any(text.startswith("refused does not run: A kernel") for text in said)


def test_bf16_must_run(bench: Bench) -> None:
    """Without bf16 there is nothing to compare with."""

    def broken(_copy: nn.Module) -> list[Unit]:
        def work() -> object:
            raise ValueError("odd")

        return [Unit(work=work)]

    with pytest.raises(MeasurementError, match="ValueError: odd"):
        interleave(two_kinds(), LISTS, broken, conditions(bench))
    made = two_kinds()
    made.wide_blocks[1] = nn.Sequential()  # another class of blocks needs no more graphs
    with pytest.raises(UserError, match="recompile limit"):
        interleave(made, {}, _uneven(), conditions(bench, recompile_limit=1))


def _uneven() -> Callable[[nn.Module], list[Unit]]:
    """Calls whose shapes need two graphs of each block."""

    def units_of(copy: nn.Module) -> list[Unit]:
        short, long = (torch.ones(n, 16, dtype=torch.bfloat16) for n in (4, 6))
        return [Unit(work=lambda: (copy(short), copy(long)))]

    return units_of


def test_lists_that_do_not_fit_beside_others_follow(bench: Bench) -> None:
    """Out of memory beside others: the list is timed in a further group, with bf16; alone, it
    fails.
    """
    open_lists: list[int] = []

    def quantize(module: nn.Module, formats: Mapping[str, FormatName]) -> None:
        bench.quantize(module, formats)
        open_lists.append(len(formats))
        if len(formats) == 1 and open_lists.count(1) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(formats) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleaved, "quantize_native", quantize)
        said: list[str] = []
        found = interleave(
            two_kinds(),
            {
                "all": LISTS["all"],
                "half": {"proj_out": FormatName.MXFP8},
                "large": {"gated_blocks.0.gate": FP8, "gated_blocks.1.gate": FP8},
            },
            bench.units_of,
            conditions(bench, say=said.append),
        )
    assert (found["none"].group, found["all"].group, found["half"].group) == (0, 0, 1)
    assert found["half"].ratio.value == pytest.approx(4 / 3, rel=0.01)
    assert found["half"].bf16 != found["none"].timings
    assert "ran out of memory" in found["large"].failure
    assert "half, large: no room beside other lists, timed after them" in said


@pytest.mark.parametrize(
    ("room", "groups"),
    [
        (None, [("a", "b", "c")]),
        (80, [("a", "b", "c")]),
        (79, [("a", "b"), ("c",)]),
        (39, [("a",), ("b",), ("c",)]),
        (0, [("a",), ("b",), ("c",)]),
    ],
)
def test_groups_by_memory(room: int | None, groups: list[tuple[str, ...]]) -> None:
    """Lists that fit together are one group, and what they quantize alike counts once; one that
    does not fit at all is tried alone.
    """
    shared, own = ("shared", FP8), ("own", FP8)
    needed = {
        "a": {shared: 20, own: 10},
        "b": {shared: 20, ("other", FP8): 10},
        "c": {("own", FormatName.MXFP8): 40},
    }
    assert plan_groups(needed, room) == groups


def test_rounds_keep_to_the_time(bench: Bench) -> None:
    """Fewer rounds where they would take longer than asked for, but three."""
    for most_s, rounds in ((0.0, 3), (1e9, 4)):
        found = interleave(two_kinds(), {}, bench.units_of, conditions(bench, most_s=most_s))
        assert len(found["none"].rounds_s) == rounds


def test_settings_and_hooks_are_put_back(bench: Bench) -> None:
    """Nothing of the original is compiled or hooked afterwards, interrupted or not."""
    made = TwoKinds().bfloat16().eval()

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    before = torch._dynamo.config.get_config_copy()
    with pytest.raises(KeyboardInterrupt):
        interleave(
            made,
            LISTS,
            bench.units_of,
            conditions(bench, runtime=runtime_of("reduce-overhead"), clock=interrupted),
        )
    assert torch._dynamo.config.get_config_copy() == before
    assert torch.is_grad_enabled()
    assert all(child._compiled_call_impl is None for child in made.modules())
    assert not made._forward_pre_hooks
