"""A denoiser is timed with its formats as it is served, and everything that was touched is as
before afterwards.

On a CPU, with toy denoisers: torch traces the blocks (backend "eager"), nothing is optimised, and
the numbers mean nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch._dynamo.config
from torch import nn
from torch._dynamo.testing import CompileCounter

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.errors import FormatError, MeasurementError, UserError
from sensitivity.latency.timing import end_to_end
from sensitivity.latency.timing.end_to_end import measure_calls

from support.small_denoisers import Gated, Numbered, TwoKinds, two_kinds

pytestmark = pytest.mark.usefixtures("small_heap")

FP8 = FormatName.FP8


@dataclass
class Call:
    """A call of `TwoKinds`, as `DenoiserCall` of `shapes.run`: its input is a meta tensor."""

    tokens: int = 4
    calls: int = 4
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        inputs = torch.empty(self.tokens, 16, dtype=torch.bfloat16, device="meta")
        self.kwargs = {"hidden_states": inputs}


@dataclass
class Plain:
    """A call of `Numbered`, with a real tensor."""

    args: tuple[Any, ...] = (torch.zeros(2, 8),)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_denoiser_is_timed_call_by_call(mode: CompileMode) -> None:
    """Each distinct call has its raw seconds and count; each class of blocks is compiled once a
    call, not once a block.
    """
    graphs = CompileCounter()
    short, long = measure_calls(
        two_kinds,
        [Call(4, 4), Call(6, 1)],
        formats={},
        compile_mode=mode,
        device="cpu",
        repetitions=3,
        backend=graphs,
    )
    assert (short.calls, long.calls) == (4, 1)
    for timing in (short, long):
        assert len(timing.seconds) == 3
        assert min(timing.seconds) > 0
        assert timing.run_s == timing.median_s * timing.calls
        assert timing.compiled == "repeated blocks (Wide, Gated)"
        assert timing.compile_mode == mode
        assert timing.weight_bytes == 2 * sum(p.numel() for p in two_kinds().parameters())
        assert timing.to_json()["seconds"] == list(timing.seconds)
    assert graphs.frame_count == 2 * 2


@pytest.mark.parametrize(
    ("mode", "make", "compiled"),
    [
        ("default", Numbered, "numbered blocks (Sequential)"),
        ("reduce-overhead", lambda: nn.Sequential(nn.Linear(8, 8)), "the whole Sequential"),
    ],
)
def test_what_is_compiled_is_said(mode: CompileMode, make: Any, compiled: str) -> None:
    """Denoisers without a list of blocks are timed too, and a timing says what was compiled."""
    (timing,) = measure_calls(
        make,
        [Plain()],
        formats={},
        compile_mode=mode,
        device="cpu",
        repetitions=1,
        backend="eager",
    )
    assert timing.compiled == compiled


def test_too_many_patterns_are_refused_before_compiling() -> None:
    """Blocks of one class with more format patterns than the limit allows are never compiled."""
    graphs = CompileCounter()
    with pytest.raises(
        UserError,
        match="2 distinct format patterns among the blocks of Wide; expected at most 1",
    ):
        measure_calls(
            two_kinds,
            [Call()],
            formats={"wide_blocks.0.linear": FP8},
            compile_mode="default",
            device="cpu",
            recompile_limit=1,
            backend=graphs,
        )
    assert graphs.frame_count == 0


def test_torchs_own_refusal_is_said_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more graphs are needed than patterns, the limit and the next step are named, and a
    higher limit works.
    """
    monkeypatch.setattr(end_to_end, "check_recompile_limit", lambda *_: None)

    def uneven() -> nn.Module:
        made = TwoKinds()
        made.gated_blocks[1] = Gated(bias=False)
        return made.bfloat16().eval()

    run: dict[str, Any] = {
        "formats": {},
        "compile_mode": "default",
        "device": "cpu",
        "repetitions": 1,
        "backend": "eager",
    }
    with pytest.raises(
        UserError,
        match=(
            r"needs more graphs than its format patterns; expected at most 1, .*"
            r" set `recompile_limit` to 2"
        ),
    ):
        measure_calls(uneven, [Call()], recompile_limit=1, **run)
    assert measure_calls(uneven, [Call()], recompile_limit=2, **run)


def test_a_device_without_the_format_is_refused() -> None:
    """Native formats are not emulated: a CPU raises, and says why."""
    with pytest.raises(
        FormatError, match=r"proj_out cannot be quantized natively: fp8 runs natively on CUDA"
    ):
        measure_calls(
            two_kinds,
            [Call()],
            formats={"proj_out": FP8},
            compile_mode="default",
            device="cpu",
            backend="eager",
        )


def test_failures_are_errors_of_ours_and_leave_nothing_behind() -> None:
    """Out of memory and other errors of the denoiser become MeasurementErrors; settings, hooks and
    compiled blocks are gone.
    """
    made: list[nn.Module] = []
    before = torch._dynamo.config.get_config_copy()

    def failing(error: Exception) -> Any:
        def make() -> nn.Module:
            module = Numbered()
            module.head.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error))
            made.append(module)
            return module

        return make

    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory.*smaller batch"),
        (ValueError("odd"), "ValueError: odd"),
    ):
        with pytest.raises(MeasurementError, match=words):
            measure_calls(
                failing(error),
                [Plain()],
                formats={},
                compile_mode="reduce-overhead",
                device="cpu",
                recompile_limit=33,
                backend="eager",
            )
    assert torch._dynamo.config.get_config_copy() == before
    assert torch.is_grad_enabled()
    for module in made:
        assert all(child._compiled_call_impl is None for child in module.modules())
        assert not module._forward_pre_hooks
