"""On a CUDA device: each runtime gives the eager outputs, quantized or not, and lists are timed in
turns in it.

python -m pytest tests/gpu/test_runtimes_gpu.py -m gpu -s
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.end_to_end import measuring
from sensitivity.latency.interleaved import interleave
from sensitivity.latency.running import running
from sensitivity.latency.runtimes import RUNTIMES, Runtime
from sensitivity.latency.timed_lists import Conditions, Unit
from sensitivity.models.shared_copies import shared_copy

from support.small_denoisers import tiny_flux, tiny_flux_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
RUNS = [runtime for runtime in RUNTIMES.values() if not runtime.fused_quantizers]
"""Those that are not only priced."""


@pytest.fixture(autouse=True)
def _fp8() -> None:
    reason = get_format(FormatName.FP8).native_refusal(CUDA)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(params=RUNS, ids=lambda runtime: runtime.name)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each way of running."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def denoiser() -> nn.Module:
    """A random FLUX of a few blocks, in bf16 on the GPU."""
    return tiny_flux().to(CUDA, torch.bfloat16).eval().requires_grad_(False)


def inputs() -> dict[str, object]:
    """One call's, on the GPU; the same each time."""
    return {
        name: value.to(CUDA) if isinstance(value, Tensor) else value
        for name, value in tiny_flux_inputs().items()
    }


def in_blocks(denoiser: nn.Module) -> dict[str, FormatName]:
    """Every Linear of the blocks that FP8 takes."""
    refusal = get_format(FormatName.FP8).refusal
    return {
        fqn: FormatName.FP8
        for fqn, x in denoiser.named_modules()
        if isinstance(x, nn.Linear)
        and "blocks." in fqn
        and refusal(k=x.in_features, n=x.out_features, dtype=torch.bfloat16) is None
    }


@pytest.mark.parametrize("quantized", [False, True], ids=["bf16", "fp8"])
def test_outputs_are_the_eager_ones(
    runtime: Runtime, denoiser: nn.Module, *, quantized: bool
) -> None:
    """Compilers round otherwise (5 % of the norm at most, 20 % where codes flip); a replay has no
    memory of the call before, and afterwards the denoiser runs eagerly again.
    """
    if quantized:
        quantize_native(denoiser, in_blocks(denoiser))
    given = inputs()
    other = dict(given)
    other["hidden_states"] = 2 * given["hidden_states"]  # type: ignore[operator]
    with torch.no_grad():
        eager, doubled = denoiser(**given)[0].clone(), denoiser(**other)[0].clone()
    with measuring(CUDA, 16), running(denoiser, runtime) as call:
        first = [call(**given)[0].clone() for _ in range(4)][-1]
        second = call(**other)[0].clone()
        again = call(**given)[0].clone()
    far = 0.2 if quantized else 0.05
    assert (first - eager).norm() < far * eager.norm()
    assert (second - doubled).norm() < far * doubled.norm()
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(**given)[0], eager, rtol=0, atol=0)


def test_lists_are_timed_in_turns(runtime: Runtime, denoiser: nn.Module) -> None:
    """Every list has a time in every round, and the bf16 weights stay as they were."""
    formats = in_blocks(denoiser)
    weights = {name: x.clone() for name, x in denoiser.named_parameters()}
    given = inputs()
    half = dict(list(formats.items())[::2])
    found = interleave(
        denoiser,
        {"none": {}, "all": formats, "half": half},
        lambda copy: [Unit(work=partial(copy, **given), calls=3)],
        Conditions(runtime=runtime, device="cuda", rounds=4, recompile_limit=16),
    )
    assert [row.failure for row in found.values()] == ["", "", ""]
    for name, row in found.items():
        print(f"{runtime.name} {name}: {row.seconds * 1e3:.3f} ms, {row.ratio.value:.3f}x")
        assert len(row.rounds_s) == 4
        assert min(row.rounds_s) > 0
    assert all(torch.equal(x, weights[name]) for name, x in denoiser.named_parameters())


def test_copies_share_their_weights(denoiser: nn.Module) -> None:
    """A copy of a quantized list takes no second bf16 weight."""
    before = torch.cuda.memory_allocated()
    twin = shared_copy(denoiser)
    assert torch.cuda.memory_allocated() - before < 2**20
    assert {id(x) for x in twin.parameters()} == {id(x) for x in denoiser.parameters()}
