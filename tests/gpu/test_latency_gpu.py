"""On a CUDA device: shapes are timed inside graphs and kept, and a compiled denoiser gives the
eager one's outputs, quantized or not.

python -m pytest tests/gpu/test_latency_gpu.py -m gpu -s
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.config
import torch._inductor.config
from diffusers import FluxTransformer2DModel

from sensitivity.core.devices import release_memory
from sensitivity.core.format_name import FormatName
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.shape_times import LinearShape, attention_key
from sensitivity.latency.timing.end_to_end import compiled_denoiser, measure_calls, measuring
from sensitivity.latency.timing.shape_timing import machine_of, measure_shapes
from sensitivity.latency.timing.stopwatch import copies_past_cache
from sensitivity.latency.timing.tensors import materialize, stored_bytes
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.search.shared_times import SharedShapeTimes
from sensitivity.shapes.census import AttentionShape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BF16, CUDA = FormatName.BF16, torch.device("cuda")
NATIVE = [
    name
    for name in FormatName
    if name is not BF16 and get_format(name).native_refusal(CUDA) is None
]
ATTENTION = AttentionShape(batch=1, heads=8, q_len=512, kv_len=512, head_dim=128, calls=1)


def flux(double: int = 2, single: int = 2) -> FluxTransformer2DModel:
    """A random FLUX denoiser on the GPU, width 256."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=128,
            pooled_projection_dim=128,
            guidance_embeds=True,
        )
    return made.to(CUDA, torch.bfloat16).eval().requires_grad_(False)


@dataclass
class Call:
    """One denoiser call of a small picture: activations on meta, ids real."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    calls: int = 28

    def __post_init__(self) -> None:
        one = torch.ones(1, dtype=torch.bfloat16)
        ids = torch.zeros(64, 3, dtype=torch.bfloat16)
        ids[:, 1], ids[:, 2] = torch.arange(64) // 8, torch.arange(64) % 8
        sizes = {
            "hidden_states": (1, 64, 64),
            "encoder_hidden_states": (1, 32, 128),
            "pooled_projections": (1, 128),
        }
        self.kwargs = {
            name: torch.empty(size, dtype=torch.bfloat16, device="meta")
            for name, size in sizes.items()
        }
        self.kwargs |= {
            "timestep": one / 2,
            "guidance": one,
            "img_ids": ids,
            "txt_ids": torch.zeros(32, 3, dtype=torch.bfloat16),
            "return_dict": False,
        }


def block_formats(denoiser: torch.nn.Module, name: FormatName) -> dict[str, FormatName]:
    """Every Linear of the blocks in one format."""
    return {
        fqn: name
        for fqn, child in denoiser.named_modules()
        if "blocks." in fqn and isinstance(child, torch.nn.Linear)
    }


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_shapes_are_timed_and_reused(mode: Any, tmp_path: Path) -> None:
    """bf16, every native format, compiled and eager, and an attention: ten times each, above 0; the
    second run reads them.
    """
    shapes = [
        LinearShape(m=m, k=1024, n=2048, bias=True, format=name, eager=eager)
        for m in (1, 256)
        for name in (BF16, *NATIVE)
        for eager in (False, True)
    ]
    cache = SharedShapeTimes(tmp_path / "times.db")
    settings = torch._inductor.config.get_config_copy(), torch._dynamo.config.get_config_copy()
    first = measure_shapes(
        shapes, attention=[ATTENTION], device="cuda", compile_mode=mode, cache=cache
    )
    assert first.failed == {}
    assert len(first.rows) == len(shapes) + 1
    for row in first.rows.values():
        assert len(row.us) == 10
        assert 0 < row.price_us < 1e5
        print(
            f"{row.key:60} {row.price_us:9.2f} us, spread {max(row.us) / min(row.us) - 1:.1%},"
            f" {row.copies} copies"
        )
    second = measure_shapes(
        shapes, attention=[ATTENTION], device="cuda", compile_mode=mode, cache=cache
    )
    assert second.rows == first.rows
    assert second.reused == frozenset(first.rows)
    assert (
        torch._inductor.config.get_config_copy(),
        torch._dynamo.config.get_config_copy(),
    ) == settings
    assert {"driver", "capability", "device"} <= set(machine_of("cuda"))


def test_large_shapes_take_what_the_chip_allows() -> None:
    """A graph of large bf16 products runs at 20 to 100 % of 2.5e15 / 4 to 2.5e15 FLOP/s: no copy
    was skipped, nothing else was timed.
    """
    m, k, n = 4096, 4096, 4096
    times = measure_shapes([LinearShape(m=m, k=k, n=n, bias=False, format=BF16)], device="cuda")
    (row,) = times.rows.values()
    assert 1e14 < 2 * m * k * n / (row.price_us / 1e6) < 2.5e15, row


def test_a_cold_weight_is_read_from_memory() -> None:
    """M = 1 cannot be faster than reading its weight at 9e12 B/s, since copies rotate past the
    cache.
    """
    shape = LinearShape(m=1, k=4096, n=8192, bias=False, format=BF16)
    assert copies_past_cache(shape.call_bytes, CUDA) > 1
    (row,) = measure_shapes([shape], device="cuda").rows.values()
    assert row.price_us > 2 * shape.k * shape.n / 9e12 * 1e6


def test_out_of_memory_is_a_row_and_the_next_shape_is_measured() -> None:
    """A shape larger than the GPU fails alone, and its memory comes back."""
    release_memory(CUDA)
    before = torch.cuda.memory_allocated()
    huge = LinearShape(m=2**22, k=2**18, n=16, bias=False, format=BF16)
    small = LinearShape(m=16, k=256, n=256, bias=False, format=BF16)
    times = measure_shapes([huge, small], device="cuda", repetitions=2)
    assert times.failed == {str(huge): "out of memory on this device"}
    assert times.rows[str(small)].us
    assert (
        torch.cuda.memory_allocated() <= before + 2**26
    )  # cuBLAS keeps a workspace of 32 MiB for each stream that it was called on


@pytest.mark.parametrize("name", [BF16, *NATIVE])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_denoiser_gives_the_eager_outputs(mode: Any, name: FormatName) -> None:
    """Inductor differs from eager by bf16 roundings (5 % of the norm at most) and by codes that
    these flip (20 %); replays do not differ at all.
    """
    denoiser = flux()
    formats = block_formats(denoiser, name)
    if name is not BF16:
        quantize_native(denoiser, formats)
    kwargs = materialize(Call().kwargs, CUDA)
    with torch.no_grad():
        eager = denoiser(**kwargs)[0].float()
    with (
        measuring(CUDA, None),
        compiled_denoiser(denoiser, compile_mode=mode, backend="inductor"),
    ):
        outputs = [denoiser(**kwargs)[0].float() for _ in range(5)]
        changed = denoiser(**(kwargs | {"hidden_states": kwargs["hidden_states"] * 2}))[0].float()
        again = denoiser(**kwargs)[0].float()
    assert (outputs[-1] - eager).norm() < (0.05 if name is BF16 else 0.2) * eager.norm()
    for other in (*outputs[3:], again):
        torch.testing.assert_close(other, outputs[2], rtol=0, atol=0)
    assert not torch.equal(changed, outputs[2]), (
        "inputs of a replayed graph must be those of the call"
    )


@pytest.mark.parametrize("name", [BF16, *NATIVE])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_denoiser_is_timed_with_native_formats(mode: Any, name: FormatName) -> None:
    """Seconds above 0, a smaller weight than bf16's, a peak that holds it, and everything as before
    afterwards.
    """
    formats = block_formats(flux(), name)
    with preserved_settings():
        (timing,) = measure_calls(flux, [Call()], formats=formats, compile_mode=mode, device="cuda")
    print(
        f"{mode} {name}: {timing.median_s * 1e3:.3f} ms, compiled in {timing.compile_s:.1f} s,"
        f" {timing.peak_memory_bytes / 2**20:.0f} MiB"
    )
    assert len(timing.seconds) == 10
    assert min(timing.seconds) > 0
    assert timing.calls == 28
    bf16_bytes = stored_bytes(flux())
    assert (
        timing.weight_bytes == bf16_bytes
        if name is BF16
        else timing.weight_bytes < 0.8 * bf16_bytes
    )
    assert timing.peak_memory_bytes >= timing.weight_bytes
    assert timing.reserved_bytes >= timing.peak_memory_bytes


def test_attention_is_a_row() -> None:
    """An attention alone is measured too."""
    times = measure_shapes([], attention=[ATTENTION], device="cuda")
    assert times.rows[attention_key(ATTENTION)].us
