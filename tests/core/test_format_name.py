"""Names of formats: which are read, which are refused, and which Linears they leave in bf16."""

import pytest

from sensitivity.core.format_name import FormatName, parse_formats, quantized, skipped
from sensitivity.errors import FormatError


def test_formats_keep_their_order_once() -> None:
    """A format may be given several times; repeats count once, the first order stays."""
    assert parse_formats(["nvfp4", "fp8", "nvfp4"]) == (FormatName.NVFP4, FormatName.FP8)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nvfp8"], r"`format` 'nvfp8' is unknown.*did you mean"),
        (["bf16"], "'bf16' is what skipped Linears keep"),
        (
            ["NVFP4"],
            "'NVFP4' is unknown; expected one or more of mxfp8, nvfp4, .*: choose",
        ),
        ([], "no `format` is given; expected one or more of mxfp8, nvfp4, fp8, int8"),
    ],
)
def test_wrong_formats_are_refused(names: list[str], message: str) -> None:
    """An unknown format, bf16 and no format at all are refused, with those that were expected."""
    with pytest.raises(FormatError, match=message):
        parse_formats(names)


def test_linears_are_quantized_or_skipped() -> None:
    """Every Linear is in one of the two, in the order given."""
    formats = {"b": FormatName.FP8, "a": FormatName.BF16, "c": FormatName.BF16}
    assert quantized(formats) == {"b": FormatName.FP8}
    assert skipped(formats) == ["a", "c"]
