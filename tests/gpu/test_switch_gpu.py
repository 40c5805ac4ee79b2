"""On a CUDA device: Triton's quantizers are torchao's, FP8 runs as torchao runs it, and one
compiled graph serves all skip-lists.

    python -m pytest tests/gpu/test_switch_gpu.py -m gpu -s
"""

import copy
import random
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo.utils
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.formats.emulation import as_run_on, emulated_linear
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.formats.switch import Switch
from sensitivity.models.compiled_regions import CompiledRegions, compiled_graphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().cuda()


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4", "fp8"])
@pytest.mark.parametrize("shape", [(1, 3072), (17, 960), (4608, 3072)])
def test_fast_quantizers_are_torchaos(name: str, shape: tuple[int, int]) -> None:
    """On a GPU values and scales have the bits that the CPU has (torch's eager division by a
    constant on CUDA is off by an ulp now and then).
    """
    x = normal(*shape) * 3
    x[0] *= 2.0**-12
    x[-1, :32] = 0
    found, expected = (get_format(name).quantize_weight(y) for y in (x, x.cpu()))
    assert torch.equal(found.values.float().cpu(), expected.values.float())
    if found.scale is not None and expected.scale is not None:
        assert torch.equal(found.scale.flatten().cpu(), expected.scale.flatten())
    assert (found.scale is None) == (expected.scale is None)


@pytest.mark.parametrize("rows", [1, 16, 300])
def test_hardware_fp8_is_what_torchao_computes(rows: int) -> None:
    """Where the GPU supports FP8, a switched Linear gives the bits of the native one."""
    if get_format("fp8").native_refusal(CUDA) is not None:
        pytest.skip("this GPU has no FP8")
    linear = nn.Linear(512, 256, device=CUDA, dtype=torch.bfloat16)
    native = nn.Sequential(copy.deepcopy(linear))
    quantize_native(native, {"0": FormatName.FP8})
    fmt, x = as_run_on(FormatName.FP8, CUDA), normal(rows, 512)
    found = emulated_linear(x, fmt.quantize_weight(linear.weight), linear.bias, fmt)
    assert torch.equal(found, native(x))


def test_one_graph_serves_all_skip_lists() -> None:
    """Compiled by inductor, a FLUX denoiser changes its skip-list without compiling, and stays
    within bf16's rounding of the eager one.
    """
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = (
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=128,
            pooled_projection_dim=128,
            guidance_embeds=True,
        )
        .to(CUDA, torch.bfloat16)
        .eval()
        .requires_grad_(False)
    )
    ids = torch.zeros(64, 3, device=CUDA)
    ids[:, 1], ids[:, 2] = torch.arange(64, device=CUDA) // 8, torch.arange(64, device=CUDA) % 8
    call = {
        "hidden_states": normal(1, 64, 64),
        "encoder_hidden_states": normal(1, 32, 128),
        "pooled_projections": normal(1, 128),
        "timestep": torch.full((1,), 0.5, device=CUDA).bfloat16(),
        "guidance": torch.full((1,), 3.5, device=CUDA),
        "img_ids": ids,
        "txt_ids": torch.zeros(32, 3, device=CUDA),
        "return_dict": False,
    }
    with Switch(model) as switch:
        rng, unfit = random.Random(0), switch.unfit()
        lists = [
            {},
            *(
                {f: rng.choice(list(FormatName)) for f in switch.linears if f not in unfit}
                for _ in range(4)
            ),
        ]
        lists = [{f: n for f, n in one.items() if not switch.refusals({f: n})} for one in lists]
        regions, counts = CompiledRegions(model), []
        for one in lists:
            switch.set(one)
            eager = model(**call)[0]
            with regions:
                found = model(**call)[0]
            counts.append(compiled_graphs())
            assert (found - eager).float().norm() < 0.05 * eager.float().norm()
    assert counts == [counts[0]] * len(lists)
