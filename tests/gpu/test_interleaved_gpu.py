"""On a CUDA device with native formats: several lists of one denoiser run in turns, each gives the
outputs that it gives by itself, and they share the bf16 weights.

python -m pytest tests/gpu/test_interleaved_gpu.py -m gpu -s
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.runtimes import RUNTIMES, get_runtime
from sensitivity.latency.timing.interleaved import interleave
from sensitivity.latency.timing.tensors import stored_bytes
from sensitivity.latency.timing.timed_lists import Conditions, Unit
from sensitivity.models.shared_copies import shared_copy

CUDA = torch.device("cuda")
FP8 = FormatName.FP8

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or get_format(FP8).native_refusal(CUDA) is not None,
        reason="needs a CUDA device with FP8",
    ),
]


@pytest.fixture(scope="module")
def flux() -> FluxTransformer2DModel:
    """A random FLUX denoiser on the GPU, width 512."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=128,
            num_attention_heads=4,
            joint_attention_dim=128,
            pooled_projection_dim=128,
            guidance_embeds=True,
        )
    return made.to(CUDA, torch.bfloat16).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    """Keyword arguments of one call."""
    generator = torch.Generator(CUDA).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=CUDA).bfloat16()

    one = torch.ones(1, dtype=torch.bfloat16, device=CUDA)
    return {
        "hidden_states": normal(1, 64, 64),
        "encoder_hidden_states": normal(1, 32, 128),
        "pooled_projections": normal(1, 128),
        "timestep": one,
        "guidance": one,
        "img_ids": torch.zeros(64, 3, dtype=torch.bfloat16, device=CUDA),
        "txt_ids": torch.zeros(32, 3, dtype=torch.bfloat16, device=CUDA),
        "return_dict": False,
    }


def lists(denoiser: nn.Module) -> dict[str, dict[str, FormatName]]:
    """All Linears of the blocks, and those of the first single block alone."""
    blocks = [
        fqn
        for fqn, child in denoiser.named_modules()
        if isinstance(child, nn.Linear) and "blocks" in fqn and "norm" not in fqn
    ]
    first = [fqn for fqn in blocks if fqn.startswith("single_transformer_blocks.0")]
    return {"all": dict.fromkeys(blocks, FP8), "one block": dict.fromkeys(first, FP8)}


def conditions(runtime: str) -> Conditions:
    return Conditions(runtime=get_runtime(runtime), device="cuda", rounds=4)


@pytest.mark.parametrize(
    "runtime", [name for name, own in RUNTIMES.items() if not own.fused_quantizers]
)
def test_lists_in_turns_compute_what_each_computes_alone(
    flux: FluxTransformer2DModel, inputs: dict[str, Any], runtime: str
) -> None:
    """While the lists take turns, each gives the same outputs in every round, close to those of the
    list run eagerly by itself; bf16's weights are there once, and the original stays as it was.
    """
    before = [p.data_ptr() for p in flux.parameters()]
    kinds: dict[int, str] = {}
    outputs: dict[str, list[torch.Tensor]] = {}
    wanted = {"none": {}, **lists(flux)}

    def units_of(copy: nn.Module) -> list[Unit]:
        name = [*wanted][len(kinds)]
        kinds[id(copy)] = name

        def work() -> None:
            outputs.setdefault(name, []).append(copy(**inputs)[0].float())

        return [Unit(work=work, calls=28)]

    def clock(unit: Unit, about_s: float, _device: torch.device) -> float:
        unit.work()
        torch.cuda.synchronize()
        return about_s

    how = conditions(runtime)
    found = interleave(flux, wanted, units_of, _with_clock(how, clock))
    assert [p.data_ptr() for p in flux.parameters()] == before
    for name, formats in wanted.items():
        assert found[name].failure == ""
        alone = shared_copy(flux)
        quantize_native(alone, formats)
        with torch.no_grad():
            eager = alone(**inputs)[0].float()
        own = outputs[name]
        assert (own[-1] - eager).norm() < (0.2 if formats else 0.05) * eager.norm()
        for other in own[4:]:  # after the calls that compile, warm up and record
            torch.testing.assert_close(other, own[3], rtol=0, atol=0)
    assert not torch.equal(outputs["all"][-1], outputs["none"][-1])
    held = {name: row.timings[0].weight_bytes for name, row in found.items()}
    assert held["all"] < held["one block"] < held["none"] == stored_bytes(flux)


def _with_clock(how: Conditions, clock: Callable[..., float]) -> Conditions:
    return Conditions(runtime=how.runtime, device=how.device, rounds=how.rounds, clock=clock)


def test_a_refused_list_leaves_the_others(
    flux: FluxTransformer2DModel, inputs: dict[str, Any]
) -> None:
    """A list whose Linear stops in the middle is a row with its reason."""

    def units_of(copy: nn.Module) -> list[Unit]:
        quantized = type(copy.proj_out.weight.data) is not torch.Tensor
        work = (
            partial(_stop, "CUBLAS_STATUS_NOT_SUPPORTED") if quantized else partial(copy, **inputs)
        )
        return [Unit(work=work, calls=28)]

    found = interleave(
        flux,
        {"refused": {"proj_out": FP8}, "all": lists(flux)["all"]},
        units_of,
        conditions("torchao-compiled"),
    )
    assert "refused the shape" in found["refused"].failure
    assert len(found["all"].rounds_s) == 4
    print({name: row.ratio for name, row in found.items() if not row.failure})


def _stop(message: str) -> None:
    raise RuntimeError(message)
