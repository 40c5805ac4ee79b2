"""Native kernels are held against emulation in units of the last place, and what is not finite or
does not run is counted apart.
"""

import json

import pytest
import torch

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.native_check import INPUTS, CheckedShape, compare_native, ulps_apart

from support.blackwell import a_blackwell

MXFP8, NVFP4 = FormatName.MXFP8, FormatName.NVFP4
SHAPES = (
    CheckedShape(5, 64, 32, bias=True),
    CheckedShape(1, 64, 32, bias=False),
    CheckedShape(1, 63, 32, bias=False),  # no format takes this K
)


def test_an_ulp_is_that_of_bf16() -> None:
    """Between 1 and 2 it is 2^-7, between 64 and 128 it is 2^-1; values far below the root mean
    square are counted in units of that.
    """
    expected = torch.tensor([1.0, 1.5, 64.0, 1.0]).bfloat16()
    found = torch.tensor([1.0, 1.5 + 2.0**-7, 64.5, 1.25]).bfloat16()
    rms = float(expected.double().square().mean().sqrt())
    unit = 2.0**-2  # of 32 to 64, where the root mean square is
    assert 32 < rms < 64
    assert ulps_apart(found, expected).tolist() == [0, 2.0**-7 / unit, 1, 0.25 / unit]
    alone = ulps_apart(found[1:2], expected[1:2])
    assert alone.tolist() == [1]


def test_every_arithmetic_shape_and_kind_of_input_has_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MXFP8 has the emulated bits, NVFP4 is at most a few roundings away; an all-zero NVFP4 input
    is NaN on both sides; a shape that the format does not take has no row.
    """
    with a_blackwell(monkeypatch):
        mx, nv = (compare_native(name, "cpu", shapes=SHAPES) for name in (MXFP8, NVFP4))
    assert [(row.m, row.inputs) for row in mx] == [(m, kind) for m in (5, 1) for kind in INPUTS]
    assert {(row.largest_ulp, row.equal, row.error) for row in mx} == {(0.0, 1.0, None)}
    assert {row.arithmetic for row in nv} == {Arithmetic.EAGER, Arithmetic.COMPILED}
    for row in nv:
        if row.inputs == "all zero" or (row.m == 1 and row.inputs == "zero rows"):
            assert row.largest_ulp is None
            assert row.native_not_finite == row.emulated_not_finite == row.m * row.n
        else:
            assert row.largest_ulp is not None
            assert row.largest_ulp <= (4 if row.arithmetic is Arithmetic.EAGER else 0)
            assert row.native_not_finite == row.emulated_not_finite == 0
    assert any(row.largest_ulp and row.largest_ulp >= 1 for row in nv)
    row = json.loads(json.dumps(nv[0].to_json()))
    assert (row["format"], row["arithmetic"], row["inputs"]) == ("nvfp4", "eager", "normal")


def test_a_kernel_that_refuses_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is kept, and other shapes are compared."""
    with a_blackwell(monkeypatch, refuses=lambda m, _k, _n, _bias: m == 1):
        rows = compare_native(MXFP8, "cpu", shapes=SHAPES, inputs=("normal",))
    assert [row.error is None for row in rows] == [True, False]
    assert rows[1].error is not None
    assert rows[1].error.startswith("RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED")
    assert rows[1].largest_ulp is None


def test_a_device_without_the_format_is_an_error() -> None:
    """The message says why, and where to compare."""
    with pytest.raises(FormatError, match=r"found no native kernel of nvfp4 on cpu: .* compare"):
        compare_native(NVFP4, "cpu", shapes=SHAPES)
