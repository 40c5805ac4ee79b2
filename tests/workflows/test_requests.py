"""What a request says of arithmetic and kernels, and which texts it takes."""

from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, UserError
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.workflows.requests import SearchRequest

from support.blackwell import a_blackwell, forget, install_mslk

MXFP8, NVFP4, FP8 = FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


def test_the_arithmetic_is_that_of_the_kernels_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NVFP4 that runs natively with mslk has its arithmetic; whoever names one, emulates, or
    searches fp8 beside it gets that or eager.
    """
    assert SearchRequest().own_arithmetic is Arithmetic.EAGER
    with a_blackwell(monkeypatch):
        install_mslk(monkeypatch)
        forget()
        assert SearchRequest().own_arithmetic is Arithmetic.MSLK
        assert SearchRequest(emulate=True).own_arithmetic is Arithmetic.EAGER
        assert SearchRequest(formats=(NVFP4, FP8)).own_arithmetic is Arithmetic.EAGER
        for arithmetic in Arithmetic:
            assert SearchRequest(arithmetic=arithmetic).own_arithmetic is arithmetic
    with pytest.raises(FormatError, match="known exactly"):
        SearchRequest(formats=(FP8,), arithmetic=Arithmetic.MSLK)


@pytest.mark.parametrize(
    ("formats", "emulate", "expected"),
    [
        ((NVFP4,), None, True),
        ((MXFP8, NVFP4), None, True),
        ((FP8,), None, False),
        ((FP8, NVFP4), None, False),
        ((NVFP4,), False, False),
        ((FP8,), True, True),
    ],
)
def test_a_study_is_chosen_from_as_it_was_drawn(
    formats: tuple[FormatName, ...], emulate: bool | None, expected: bool
) -> None:
    """Studies of earlier versions, which did not say, emulated all but FP8."""
    kept = SearchSettings(formats=formats, target="b200", budget=8, emulate=emulate)
    assert kept.keeps_to_emulation is expected


def test_texts_ask_for_the_same_search() -> None:
    """Texts, lists and enums make equal requests, and so the same study."""
    texts: dict[str, Any] = {
        "formats": ["nvfp4"],
        "arithmetic": "eager",
        "sampler": "knapsack",
        "granularity": "group",
        "storage": "a.db",
    }
    typed = SearchRequest(
        formats=(NVFP4,),
        arithmetic=Arithmetic.EAGER,
        sampler=SamplerName.KNAPSACK,
        storage=Path("a.db"),
    )
    assert SearchRequest(**texts) == typed
    assert SearchRequest(**texts | {"formats": "nvfp4"}) == typed
    assert repr(typed) == "SearchRequest(storage='a.db', arithmetic='eager')"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("formats", "NVFP4 "),
        ("formats", ["bf16"]),
        ("arithmetic", "fast"),
        ("sampler", "knap"),
        ("granularity", "groups"),
        ("latency", "guessed"),
        ("runtime", "torch"),
    ],
)
def test_an_unknown_text_is_refused(field: str, value: Any) -> None:
    """The message names the field, or what it holds, and what is expected."""
    with pytest.raises(UserError, match="expected"):
        SearchRequest(**{field: value})
