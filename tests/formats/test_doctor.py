"""What is native, what is missing and how it is installed, for a Blackwell that is not here."""

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.formats import mslk
from sensitivity.formats.doctor import examine

from support.blackwell import a_blackwell, install_mslk

MXFP8, NVFP4, FP8 = FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


def test_a_cpu_misses_nothing() -> None:
    """Where no format is native, nothing that could be installed would change that."""
    for name, found in examine("cpu").items():
        assert not found.is_native
        expected = "no faster" if name.is_weight_only else "this is a cpu device"
        assert name is FormatName.MXFP8_A16 or expected in str(found.reason)
        assert found.missing == {}


def test_a_blackwell_without_mslk_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVFP4 is native without mslk; the command stands beside it, and goes once mslk is there."""
    with a_blackwell(monkeypatch):
        monkeypatch.setattr(mslk, "is_available", lambda: False)
        found = examine("cpu")
        assert found[MXFP8].is_native
        assert found[NVFP4].is_native
        assert "`pip install mslk" in found[NVFP4].missing["mslk"]
        assert "mslk" not in found[MXFP8].missing
        assert not found[FP8].is_native
        install_mslk(monkeypatch)
        assert "mslk" not in examine("cpu")[NVFP4].missing


def test_what_asserts_or_is_refused_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao's assertion before SM100 and a refusal of cuBLAS are reasons."""
    with monkeypatch.context() as patch, a_blackwell(patch, before_sm100=True):
        assert examine("cpu")[NVFP4].reason
    with monkeypatch.context() as patch, a_blackwell(patch, refuses=lambda *_: True):
        assert "CUBLAS_STATUS_NOT_SUPPORTED" in str(examine("cpu")[MXFP8].reason)
