"""What drew pictures is said in one word, in a few, and for each format where they differ."""

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels, in_words, summary, to_json

FP8, NVFP4 = FormatName.FP8, FormatName.NVFP4
NATIVE, EMULATED = Kernels.NATIVE, Kernels.EMULATED


@pytest.mark.parametrize(
    ("by_format", "words", "json"),
    [
        ({FP8: NATIVE}, "by native kernels", {"kernels": "native"}),
        ({FP8: EMULATED, NVFP4: EMULATED}, "by emulation", {"kernels": "emulated"}),
        ({}, "by emulation", {"kernels": "emulated"}),
        (
            {FP8: NATIVE, NVFP4: EMULATED},
            "(fp8 by native kernels, nvfp4 by emulation)",
            {
                "kernels": "emulated",
                "kernels_by_format": {"fp8": "native", "nvfp4": "emulated"},
            },
        ),
    ],
)
def test_kernels_in_words_and_json(
    by_format: dict[FormatName, Kernels], words: str, json: dict[str, object]
) -> None:
    """Native is said where every format is; where they differ each has its own word."""
    assert in_words(by_format) == words
    assert to_json(by_format) == json
    assert in_words(summary(by_format)) in ("by native kernels", "by emulation")
