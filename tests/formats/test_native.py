"""Native execution uses torchao's configs, refuses before it starts, and says what is installed."""

import fnmatch
import importlib.metadata
import sys
import tomllib

import pytest
import torch
from torch import Tensor, nn
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats import get_format, mslk
from sensitivity.formats.mxfp8 import MXFP8
from sensitivity.formats.native import describe_versions, quantize_native

from support.paths import ROOT


@pytest.mark.parametrize(("n", "k"), [(384, 12288), (64, 3072), (200, 192), (16, 32)])
def test_weight_bytes_are_those_of_torchao_tensors(n: int, k: int) -> None:
    """Stored bytes, padded block scales included, equal those of torchao's swizzled tensors; bf16
    is two bytes a weight.
    """
    w = torch.zeros(n, k, dtype=torch.bfloat16)
    mx = MXTensor.to_mx(w, torch.float8_e4m3fn, 32, is_swizzled_scales=True)
    nv = NVFP4Tensor.to_nvfp4(w, per_tensor_scale=torch.ones(()), is_swizzled_scales=True)
    f8 = Float8Tensor.from_hp(w)
    expected = {
        "mxfp8": mx.qdata.nbytes + mx.scale.nbytes,
        "nvfp4": nv.qdata.nbytes + nv.scale.nbytes + nv.per_tensor_scale.nbytes,
        "fp8": f8.qdata.nbytes + f8.scale.nbytes,
        "bf16": 2 * n * k,
    }
    assert {name: get_format(name).weight_bytes(k=k, n=n) for name in expected} == expected


def test_unknown_format_names_the_known_ones() -> None:
    """A typing mistake is answered with the formats that exist; names and members are both
    accepted.
    """
    with pytest.raises(FormatError, match="'nvfp5'; expected one of bf16, mxfp8, nvfp4, fp8"):
        get_format("nvfp5")
    assert get_format("fp8") is get_format(FormatName.FP8)


def test_native_configs_are_the_documented_ones() -> None:
    """MXFP8 scales by RCEIL, as torchao does by default; FP8 is row-wise and leaves inductor
    alone."""
    mx, f8 = get_format("mxfp8").native_config(), get_format("fp8").native_config()
    assert mx.scaling_mode == ScaleCalculationMode.RCEIL
    assert (mx.block_size, mx.weight_dtype) == (32, torch.float8_e4m3fn)
    assert mx.scaling_mode == MXDynamicActivationMXWeightConfig().scaling_mode
    assert f8.set_inductor_config is False
    assert [type(g).__name__ for g in f8.granularity] == ["PerRow", "PerRow"]


@pytest.mark.parametrize("available", [True, False])
def test_nvfp4_uses_triton_only_with_mslk(available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mslk the config asks for no Triton kernel, and the advice says how to install it."""
    monkeypatch.setattr(mslk, "is_available", lambda: available)
    config = get_format("nvfp4").native_config()
    assert (config.use_triton_kernel, config.use_dynamic_per_tensor_scale) == (available, True)
    advice = mslk.advice()
    assert advice is None if available else "pip install mslk" in str(advice)


def test_versions_that_decide_the_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch, torchao and mslk, which says where it is missing."""
    monkeypatch.setattr(mslk, "is_available", lambda: False)
    found = describe_versions()
    assert set(found) == {"torch", "torchao", "mslk"}
    assert (found["torch"], found["mslk"]) == (torch.__version__, "not installed")


class TwelveBlocks(nn.Module):
    """Names that are prefixes of each other: blocks.1, blocks.10, blocks.11; and one Linear that
    formats refuse.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 64, dtype=torch.bfloat16) for _ in range(12)])
        self.narrow = nn.Linear(64, 8, dtype=torch.bfloat16)


def test_quantize_native_takes_exact_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """blocks.1 is quantized, blocks.10 and blocks.11 are not, and bf16 entries stay."""
    # torchao converts MX weights on any device
    monkeypatch.setattr(MXFP8, "native_refusal", lambda _self, _device: None)
    model = TwelveBlocks()
    quantize_native(model, {"blocks.1": FormatName.MXFP8, "blocks.10": FormatName.BF16})
    assert [i for i, block in enumerate(model.blocks) if isinstance(block.weight, MXTensor)] == [1]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"blocks.12": "mxfp8"}, "'blocks.12' is none of the 13 Linears of this TwelveBlocks"),
        ({"blocks": "mxfp8"}, "'blocks' is none of"),
        ({"blocks.1": "nvfp4", "narrow": "nvfp4"}, "emulate it instead"),
        ({"narrow": "fp8"}, "narrow cannot be quantized natively: N = 8 is not a multiple of 16"),
    ],
)
def test_quantize_native_refuses_before_it_starts(wanted: dict[str, str], message: str) -> None:
    """An unknown name, a refused shape or a device without the format raises, and no Linear has
    changed.
    """
    model = TwelveBlocks()
    with pytest.raises(FormatError, match=message):
        quantize_native(model, {fqn: FormatName(name) for fqn, name in wanted.items()})
    assert all(
        type(parameter) is nn.Parameter and type(parameter.data) is Tensor
        for parameter in model.parameters()
    )


@pytest.mark.parametrize(
    ("torch_version", "cuda", "expected"),
    [
        ("2.10.0+cu128", "12.8", "run `pip install mslk-cuda==1.0.0`"),
        ("2.11.0+cu130", "13.0", "run `pip install mslk-cuda==1.1.0`"),
        ("2.12.1", "13.2", "run `pip install mslk==1.2.0 --index-url https://*/whl/cu132`"),
        ("2.13.0", None, "run `pip install mslk==1.3.0 --index-url https://*/whl/cu130`"),
        ("2.15.0", "13.2", "* --index-url https://*/whl/cu132` and set MSLK_PYTHON_ONLY=1 (no *"),
    ],
)
def test_the_command_is_for_this_torch(
    torch_version: str, cuda: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mslk is for one release of torch: on PyPI up to 2.11, on PyTorch's index since."""
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(sys, "platform", "linux")
    assert fnmatch.fnmatchcase(mslk.install_command(), expected)
    monkeypatch.setattr(sys, "platform", "win32")
    assert "only for Linux" in mslk.install_command()


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({}, "mslk is not installed"),
        ({"mslk": "0.0.0"}, "PyPI's empty placeholder (0.0.0)"),
        ({"mslk-cuda": "1.1.0"}, "mslk 1.1.0 is installed, and its NVFP4 quantizer cannot be"),
    ],
)
def test_advice_says_what_is_there(
    installed: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, the placeholder and a package that cannot be imported are told apart."""

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(mslk, "is_available", lambda: False)
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert found in str(mslk.advice())
    assert mslk.version() is None


def test_the_extra_is_the_newest_pair_on_pypi() -> None:
    """The extra `blackwell` pins the torch that its mslk is for."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]["blackwell"]
    assert extra[0] == "torch>=2.11,<2.12"
    assert extra[1].startswith("mslk-cuda>=1.1,<1.2;")
    assert mslk.RELEASES[2, 11] == "1.1.0"
