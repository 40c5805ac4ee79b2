"""Known refusals are data: the shapes that fail are named with their reason, and no others."""

import itertools
import json

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.latency.devices import DEVICES
from sensitivity.latency.refusals import (
    KnownRefusal,
    Sizes,
    is_about_a_shape,
    kernel_words,
    known_refusals,
    refusal_of,
)

from support.paths import ROOT

FP8 = FormatName.FP8


@pytest.mark.parametrize("m", [1, 14, 42])
@pytest.mark.parametrize("device", ["h100", "h200"])
def test_the_text_stream_of_qwen_image_is_refused_on_hopper(device: str, m: int) -> None:
    """FP8 with K = 12288, N = 3072, a bias and few rows has a reason that names the shape."""
    reason = refusal_of(device, m=m, k=12288, n=3072, bias=True, format=FP8)
    assert reason is not None
    assert reason.startswith(
        f"refused by the kernel: CUBLAS_STATUS_NOT_SUPPORTED for M={m} K=12288 N=3072 with a bias"
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"m": 43},
        {"m": 0},
        {"k": 3072},
        {"n": 9216},
        {"bias": False},
        {"format": FormatName.BF16},
        {"device": "b200"},
    ],
)
def test_every_condition_counts(changed: dict[str, object]) -> None:
    """With one condition broken, nothing is known against the shape."""
    known: dict[str, object] = {
        "device": "h100",
        "m": 14,
        "k": 12288,
        "n": 3072,
        "bias": True,
        "format": FP8,
    }
    assert refusal_of(**known)  # type: ignore[arg-type]
    assert refusal_of(**{**known, **changed}) is None  # type: ignore[arg-type]


def test_what_ships_has_a_source_and_a_device() -> None:
    """Every entry says where it was seen, with what, and concerns a device that can be priced."""
    capabilities = {device.capability for device in DEVICES.values()}
    for known in known_refusals():
        assert len(known.source) > 20
        assert "torch" in known.versions
        assert capabilities & set(known.capabilities)
        assert known.format.is_quantized


def test_what_ships_is_what_the_h200_said() -> None:
    """Each product that was tried (here every third pair of K and N) is refused by the data if and
    only if it was refused by the GPU.
    """
    found = json.loads((ROOT / "benchmarks/results/2026-11-28-refusals-h200.json").read_text())
    refused = {(k, n, bias): set(ms) for k, n, bias, ms in found["row_wise"]["refused"]}
    capability = found["machine"]["capability"]
    wrong = [
        (m, k, n, bias)
        for (k, n), bias in itertools.product(found["grid"]["kn"][::3], (False, True))
        for m in found["grid"]["m"]
        if (m in refused.get((k, n, bias), ()))
        != any(
            known.holds(capability=capability, m=m, k=k, n=n, bias=bias, format=FP8)
            for known in known_refusals()
        )
    ]
    assert wrong == []
    assert sum(map(len, refused.values())) == 3415


def test_no_more_is_refused_than_the_h200_said() -> None:
    """Between the sizes of the grid, above N = 8192, the data claims nothing that runs, and most of
    what does not.
    """
    found = json.loads((ROOT / "benchmarks/results/2026-11-28-refusals-h200.json").read_text())
    claimed = missed = 0
    for name, ranges in list(found["large_n"].items())[::4]:
        k, m = (int(part.split("=")[1]) for part in name.split())
        for n in range(8192, 24577, 64):
            is_refused = any(first <= n <= last for first, last in ranges)
            known = refusal_of("h200", m=m, k=k, n=n, bias=True, format=FP8) is not None
            assert is_refused or not known, (m, k, n)
            claimed, missed = claimed + known, missed + (is_refused and not known)
    assert missed < 0.06 * claimed


def test_sizes_are_bounds_multiples_and_lists() -> None:
    """What is left out does not matter; what is stated must hold together."""
    assert 7 in Sizes()
    sizes = Sizes(least=64, most=256, multiple_of=16, not_multiple_of=64)
    found = [size for size in range(0, 300, 8) if size in sizes]
    assert found == [80, 96, 112, 144, 160, 176, 208, 224, 240]
    assert 3 in Sizes(among=(3, 5))
    assert 4 not in Sizes(among=(3, 5))


def test_an_unknown_device_is_an_error() -> None:
    """A name that is no device's is said, instead of "nothing is known"."""
    with pytest.raises(UserError, match="No device is called 'h1000'"):
        refusal_of("h1000", m=1, k=16, n=16, bias=True, format=FP8)


def test_a_refusal_without_a_word_on_bias_holds_for_both() -> None:
    """`bias` left out means that it does not matter."""
    known = KnownRefusal(
        format=FP8, capabilities=("9.0",), error="no", source="here", versions="torch"
    )
    shape = {"capability": "9.0", "m": 1, "k": 16, "n": 16, "format": FP8}
    assert all(known.holds(bias=bias, **shape) for bias in (True, False))  # type: ignore[arg-type]


def test_the_kernel_s_own_words_are_found() -> None:
    """The status of a library counts more than the call around it."""
    error = RuntimeError(
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic( lt"
    )
    assert kernel_words(error) == "CUBLAS_STATUS_NOT_SUPPORTED"
    assert is_about_a_shape(error)
    assert kernel_words(ValueError("one\ntwo")) == "one"
    assert not is_about_a_shape(ValueError("one\ntwo"))
    behind = RuntimeError("the compiler failed")
    behind.__cause__ = error
    assert is_about_a_shape(behind)
