"""A product whose shape a native kernel refuses is emulated, said once, and nothing else is."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.refused_products import refused_products
from sensitivity.formats.switch import Switch

from support.blackwell import a_blackwell

MXFP8, NVFP4 = FormatName.MXFP8, FormatName.NVFP4


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32, bias=False))
    return model.bfloat16().requires_grad_(False)


@pytest.fixture(autouse=True)
def _blackwell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Products of 14 rows are refused, as some of FP8's are on Hopper."""
    with a_blackwell(monkeypatch, refuses=lambda m, _k, _n, _bias: m == 14):
        yield


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).bfloat16()


def test_a_refused_shape_is_emulated_and_said_once(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """The output is that of emulation at the refused shape alone, and the Linear counts as run in
    its format.
    """
    caplog.set_level(logging.WARNING)
    formats = {"0": NVFP4}
    outputs: dict[bool, list[Tensor]] = {}
    for emulate in (False, True):
        with Switch(model, emulate=emulate) as switch:
            switch.set(formats)
            outputs[emulate] = [model[0](normal(m, 64)) for m in (14, 15, 14)]
            assert switch.check_ran() == ()
    native, emulated = outputs[False], outputs[True]
    assert torch.equal(native[0], emulated[0])
    assert torch.equal(native[2], emulated[0])
    assert not torch.equal(native[1], emulated[1])
    assert caplog.text.count("refused nvfp4 M=14 K=64 N=64 with a bias (RuntimeError: CUDA") == 1
    assert refused_products() == ("nvfp4 M=14 K=64 N=64 with a bias",)


def test_other_errors_are_raised(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out is not taken for a refusal, nor is an input that the format does not
    take; an error that emulation meets too is raised as it is.
    """

    def no_memory(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with Switch(model) as switch:
        switch.set({"0": MXFP8})
        with pytest.raises(FormatError, match=r"takes torch\.bfloat16 only"):
            model[0](normal(3, 64).float())
        with pytest.raises(RuntimeError):
            model[0](normal(3, 96))
        monkeypatch.setattr(torch, "_scaled_mm", no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            model[0](normal(3, 64))
    assert refused_products() == ()
