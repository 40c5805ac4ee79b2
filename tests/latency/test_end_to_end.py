"""A denoiser is timed with its formats as it is served, and everything that was touched is as
before afterwards.

On a CPU, with a tiny FLUX: torch traces the blocks (backend "eager"), nothing is optimised, and the
numbers mean nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch._dynamo.config
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, MeasurementError, UserError
from sensitivity.latency import end_to_end
from sensitivity.latency.end_to_end import (
    materialize,
    measure_calls,
    measure_pipeline,
    weight_bytes,
)
from sensitivity.models.compiled_regions import (
    check_recompile_limit,
    compile_denoiser,
    count_block_patterns,
    default_recompile_limit,
    regions_of,
    restore_denoiser,
)
from sensitivity.recipes.parts import count_stack_patterns

FP8, NVFP4, BF16 = FormatName.FP8, FormatName.NVFP4, FormatName.BF16
CPU = torch.device("cpu")


def flux(double: int = 2, single: int = 3) -> FluxTransformer2DModel:
    """A random FLUX denoiser of 2 million parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        )
    return made.bfloat16().eval()


@dataclass
class Call:
    """As `skeleton.DenoiserCall`: meta tensors where values do not matter, real ones where they do."""

    tokens: int = 16
    calls: int = 4
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        def meta(*shape: int) -> Tensor:
            return torch.empty(*shape, dtype=torch.bfloat16, device="meta")

        self.kwargs = {
            "hidden_states": meta(1, self.tokens, 16),
            "encoder_hidden_states": meta(1, 8, 32),
            "pooled_projections": meta(1, 32),
            "timestep": torch.ones(1, dtype=torch.bfloat16),
            "guidance": torch.ones(1, dtype=torch.bfloat16),
            "img_ids": torch.arange(3 * self.tokens).reshape(self.tokens, 3).float(),
            "txt_ids": torch.zeros(8, 3),
            "return_dict": False,
        }


class Numbered(nn.Module):
    """Two blocks that no list names."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


@dataclass
class Plain:
    """A call with one argument."""

    args: tuple[Any, ...] = (torch.zeros(2, 8),)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_denoiser_is_timed_call_by_call(mode: Any) -> None:
    """Each distinct call has its raw seconds and count; each class of blocks is compiled once a
    call, not once a block.
    """
    graphs = CompileCounter()
    short, long = measure_calls(
        flux,
        [Call(16, 4), Call(24, 1)],
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
        assert (
            timing.compiled == "repeated blocks (FluxTransformerBlock, FluxSingleTransformerBlock)"
        )
        assert timing.compile_mode == mode
        assert timing.weight_bytes == 2 * sum(p.numel() for p in flux().parameters())
        assert timing.to_json()["seconds"] == list(timing.seconds)
    assert (
        2 * 2 <= graphs.frame_count <= 2 * 3
    )  # the first single block of a call sees other strides


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_outputs_are_the_eager_ones(mode: Any) -> None:
    """Compiling changes no output, and restoring gives back the eager denoiser."""
    denoiser, kwargs = flux(), materialize(Call().kwargs, CPU)
    with torch.no_grad():
        eager = denoiser(**kwargs)[0]
        graphs = CompileCounter()
        compile_denoiser(denoiser, compile_mode=mode, backend=graphs)
        torch.testing.assert_close(denoiser(**kwargs)[0], eager, rtol=0, atol=0)
        made = graphs.frame_count
        assert made > 0
        restore_denoiser(denoiser)
        torch._dynamo.reset()
        torch.testing.assert_close(denoiser(**kwargs)[0], eager, rtol=0, atol=0)
        assert graphs.frame_count == made


def test_outputs_of_replayed_graphs_are_copies() -> None:
    """Under "reduce-overhead" what a block returns is no memory that its graph will write again."""
    kept: list[Tensor] = []

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    def static(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        """A backend that writes every output into the same memory, as a CUDA graph does."""
        memory = torch.zeros(2, 8)
        kept.append(memory)
        return lambda *args: (memory.copy_(graph.forward(*args)[0]),)

    denoiser = Keeping().eval()
    with torch.no_grad():
        eager = denoiser(torch.ones(2, 8))
        compile_denoiser(denoiser, compile_mode="reduce-overhead", backend=static)
        first = denoiser(torch.ones(2, 8))
        denoiser(torch.zeros(2, 8))
    restore_denoiser(denoiser)
    torch.testing.assert_close(first, eager)
    assert all(first.data_ptr() != memory.data_ptr() for memory in kept)


def test_what_is_compiled_is_said() -> None:
    """Named blocks, else numbered ones, else the whole: each with its own words."""
    assert regions_of(Numbered())[0] == "numbered blocks (Sequential)"
    assert list(regions_of(Numbered())[1]) == ["blocks.0", "blocks.1"]
    whole = nn.Sequential(nn.Linear(8, 8))
    assert regions_of(whole) == ("the whole Sequential", {"": whole})
    assert len(regions_of(flux())[1]) == 5
    for make in (Numbered, lambda: nn.Sequential(nn.Linear(8, 8))):
        for mode in ("default", "reduce-overhead"):
            (timing,) = measure_calls(
                make,
                [Plain()],
                formats={},
                compile_mode=mode,
                device="cpu",
                repetitions=1,
                backend="eager",
            )  # type: ignore[arg-type]
            assert timing.compiled == regions_of(make())[0]


def test_block_patterns_are_counted_by_class() -> None:
    """Blocks of a class with the same formats at the same places are one pattern; what is outside
    blocks counts nowhere.
    """
    formats = {
        "transformer_blocks.0.attn.to_q": FP8,
        "single_transformer_blocks.0.proj_mlp": FP8,
        "single_transformer_blocks.1.proj_mlp": NVFP4,
        "single_transformer_blocks.2.proj_mlp": FP8,
        "proj_out": FP8,
        "transformer_blocks.1.attn.to_k": BF16,
    }
    assert count_block_patterns(flux(), {}) == {
        "FluxTransformerBlock": 1,
        "FluxSingleTransformerBlock": 1,
    }
    assert count_block_patterns(flux(), formats) == {
        "FluxTransformerBlock": 2,
        "FluxSingleTransformerBlock": 2,
    }


def test_stacks_and_classes_are_counted_apart() -> None:
    """Two stacks of one class are two stacks of one pattern each, and graphs of both patterns for
    the class; a recipe counts the first, the limit the second.
    """
    both = nn.ModuleDict(
        {name: nn.ModuleList([nn.Sequential(nn.Linear(8, 8))]) for name in ("first", "second")}
    )
    formats = {"first.0.0": FP8, "second.0.0": BF16}
    assert count_stack_patterns(formats) == {"first": 1, "second": 1}
    assert count_block_patterns(both, formats) == {"Sequential": 2}


def test_too_many_patterns_are_refused_before_compiling() -> None:
    """The message has the number found, the limit, and the next step; a higher limit passes."""
    with pytest.raises(
        UserError,
        match=(
            r"9 distinct format patterns among the blocks of B; allowed are 8, .*--recompile-limit"
            r" 10 .*--granularity group"
        ),
    ):
        check_recompile_limit({"A": 2, "B": 9}, 8)
    check_recompile_limit({"A": 8}, 8)
    check_recompile_limit({})
    check_recompile_limit({"A": default_recompile_limit()})
    formats = {"transformer_blocks.0.attn.to_q": FP8}
    graphs = CompileCounter()
    with pytest.raises(
        UserError,
        match="2 distinct format patterns among the blocks of FluxTransformerBlock; allowed are 1",
    ):
        measure_calls(
            flux,
            [Call()],
            formats=formats,
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
        made = flux(4, 1)
        for i, block in enumerate(made.transformer_blocks):
            for name in ("to_q", "to_k")[: i % 3]:
                setattr(getattr(block.attn, name), "bias", None)  # noqa: B010 - another structure is another graph
        return made

    run: dict[str, Any] = {
        "formats": {},
        "compile_mode": "default",
        "device": "cpu",
        "repetitions": 1,
        "backend": "eager",
    }
    with pytest.raises(
        UserError,
        match=r"needs more graphs than its format patterns; allowed are 2, .*--recompile-limit 4",
    ):
        measure_calls(uneven, [Call()], recompile_limit=2, **run)
    assert measure_calls(uneven, [Call()], recompile_limit=3, **run)


def test_a_device_without_the_format_is_refused() -> None:
    """Native formats are not emulated: a CPU raises, and says why."""
    with pytest.raises(
        FormatError, match=r"proj_out cannot be quantized natively: fp8 runs natively on CUDA"
    ):
        measure_calls(
            flux,
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


def test_a_whole_pipeline_call_is_timed() -> None:
    """Seconds of the call as the caller makes it, with the denoiser compiled inside and eager again
    afterwards.
    """
    denoiser, kwargs, seen = flux(), materialize(Call().kwargs, CPU), []

    def run() -> None:
        seen.append(denoiser.transformer_blocks[0]._compiled_call_impl is not None)
        denoiser(**kwargs)
        denoiser(**kwargs)

    timing = measure_pipeline(
        run,
        denoiser,
        formats={},
        compile_mode="default",
        device="cpu",
        warmups=1,
        repetitions=2,
        backend="eager",
    )
    assert len(timing.seconds) == 2
    assert seen == [True] * 4
    assert all(child._compiled_call_impl is None for child in denoiser.modules())


def test_real_tensors_keep_their_values_and_meta_tensors_get_some() -> None:
    """Ids and masks stay what they are; meta tensors become random in their own shape and dtype,
    the same each time; other values pass.
    """
    ids, mask = torch.arange(6).float(), torch.tensor([True, False])
    tree = {
        "ids": ids,
        "deep": [mask, torch.empty(64, 3, dtype=torch.bfloat16, device="meta")],
        "n": 3,
        "i": torch.empty(2, dtype=torch.int64, device="meta"),
    }
    found = materialize(tree, CPU)
    assert torch.equal(found["ids"], ids)
    assert torch.equal(found["deep"][0], mask)
    drawn = found["deep"][1]
    assert (drawn.shape, drawn.dtype) == ((64, 3), torch.bfloat16)
    assert 0.5 < float(drawn.float().std()) < 1.5
    assert torch.equal(materialize(tree, CPU)["deep"][1], drawn)
    assert found["n"] == 3
    assert found["i"].tolist() == [0, 0]


def test_weight_bytes_count_storage_once_and_inside_wrappers() -> None:
    """Tied weights count once, buffers count, and a quantized weight counts its codes and scales
    instead of its logical size.
    """
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    tied = nn.ModuleList([nn.Linear(64, 64, bias=False, dtype=torch.bfloat16) for _ in range(2)])
    tied[1].weight = tied[0].weight
    tied.register_buffer("table", torch.zeros(10))
    assert weight_bytes(tied) == 2 * 64 * 64 + 40
    tied[0].weight = nn.Parameter(
        MXTensor.to_mx(tied[0].weight.detach(), torch.float8_e4m3fn, 32), requires_grad=False
    )
    tied[1].weight = tied[0].weight
    assert weight_bytes(tied) == 64 * 64 + 64 * 64 // 32 + 40
    assert weight_bytes(flux().to("meta")) == weight_bytes(flux())
