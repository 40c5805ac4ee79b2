"""What a consumer asks of formats: refusals in words, and the nearest formats that it takes."""

import pytest

from sensitivity.consumers.limits import PRECISION, STAND_INS, Limits
from sensitivity.core.format_name import FormatName

LINEARS = ("a", "b", "c")
NEW = frozenset({FormatName.BF16, FormatName.MXFP8, FormatName.FP8_A16, FormatName.INT8})


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("nvfp4-4o6", "mxfp8"),
        ("fp8-lb", "mxfp8"),
        ("nvfp4-a16", "fp8-a16"),
        ("int8-a16", "bf16"),
        ("int8-rot", "bf16"),
        ("int8", "int8"),
    ],
)
def test_what_stands_in(given: str, nearest: str) -> None:
    """A finer format of the same kind, else bf16: weights alone do not stand in for quantized
    activations, and int8 stands in for nothing.
    """
    limits = Limits(consumer="x", formats=NEW)
    assert limits.nearest({"a": FormatName(given)}) == {"a": FormatName(nearest)}


def test_stand_ins_are_finer() -> None:
    """Each comes later in the order, quantizes activations alike, and is of no other hardware."""
    for name, finer in STAND_INS.items():
        places = [PRECISION.index(own) for own in (name, *finer)]
        assert places == sorted(places)
        assert {own.is_weight_only for own in finer} == {name.is_weight_only}
        assert FormatName.INT8 not in {own.plain for own in finer if not own.is_weight_only}
    assert set(PRECISION) == set(FormatName)


def test_two_formats_that_exclude_one_another() -> None:
    """Both are named, with the reason; the coarser one is replaced by the finer."""
    pair = frozenset({FormatName.NVFP4_4O6, FormatName.FP8})
    limits = Limits(consumer="x", apart={pair: "one algorithm for both"})
    layers = dict(zip(LINEARS, map(FormatName, ("nvfp4-4o6", "fp8", "mxfp8")), strict=True))
    assert limits.obstacles(layers) == [
        "its file cannot name fp8 and nvfp4-4o6 together: one algorithm for both"
    ]
    assert limits.nearest(layers) == layers | {"a": FormatName.FP8}


def test_formats_with_one_word_are_one_format() -> None:
    """A file that takes one format takes two that it calls alike."""
    words = {FormatName.NVFP4_4O6: FormatName.NVFP4}
    layers = dict(zip(LINEARS, map(FormatName, ("nvfp4-4o6", "nvfp4", "bf16")), strict=True))
    assert Limits(consumer="x", max_formats=1, reads_as=words).obstacles(layers) == []
    assert "the recipe has 2" in Limits(consumer="x", max_formats=1).obstacles(layers)[0]


def test_too_many_formats_stay_of_their_kind() -> None:
    """The coarsest takes the next one that also quantizes activations, or becomes bf16."""
    limits = Limits(consumer="x", max_formats=1)
    layers = dict(zip(LINEARS, map(FormatName, ("nvfp4", "nvfp4-a16", "fp8")), strict=True))
    assert list(limits.nearest(layers).values()) == [
        FormatName.FP8,
        FormatName.BF16,
        FormatName.FP8,
    ]
