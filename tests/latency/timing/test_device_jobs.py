"""A job's rows are there whatever fails: a format that asserts, a GEMM that cuBLAS refuses.

Blackwell's formats run here by torchao's own code over a fake of its GEMM, which fails in the ways
that were seen.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.formats import get_format, mslk
from sensitivity.formats.native import quantize_native
from sensitivity.latency.kernel_shapes import (
    GemmShape,
    QuantizerShape,
    parse_gemm,
    parse_quantizer,
)
from sensitivity.latency.shape_times import LinearShape
from sensitivity.latency.timing.device_jobs import QUICK, Job, JobRunner, Pace
from sensitivity.latency.timing.machine_limits import measure_limits

from support.blackwell import NOT_SUPPORTED, a_blackwell, install_mslk
from support.latency import ATTENTION, BF16, FP8, MXFP8, NVFP4, bench, shape

SIZES = {"m": 16, "k": 64, "n": 32, "bias": True}


def runner(**changed: Any) -> JobRunner:
    """On a CPU: torch traces and compiles nothing."""
    parts: dict[str, Any] = {
        "device": "cpu",
        "compile_mode": "reduce-overhead",
        "pace": Pace(repetitions=2, pause_s=0, settle_s=0),
        "formats": (MXFP8, NVFP4),
        "bench": bench(),
        "copied_bytes": 2**12,
        "sizes": (8,),
    }
    return JobRunner(**{**parts, **changed})


def gemms(*formats: FormatName) -> tuple[GemmShape, ...]:
    return tuple(GemmShape(**SIZES, format=name) for name in formats)


def test_keys_name_their_shapes() -> None:
    """A key is read back as the shape; the key of something else is none, a broken one an error."""
    for one in gemms(BF16, NVFP4):
        assert parse_gemm(str(one)) == one
        assert parse_quantizer(str(one)) is None
    quantizer = QuantizerShape(m=3, k=64, format=FP8)
    assert parse_quantizer(str(quantizer)) == quantizer
    assert parse_gemm(str(quantizer)) is None
    with pytest.raises((ValueError, KeyError)):
        parse_gemm("gemm m=1 k=2 fp8")


def test_bytes_of_single_kernels() -> None:
    """A GEMM reads both operands as stored and writes bf16; a quantizer reads bf16."""
    one = GemmShape(m=128, k=64, n=32, bias=False, format=MXFP8)
    stored = get_format(MXFP8).weight_bytes
    assert one.call_bytes == stored(k=64, n=128) + stored(k=64, n=32) + 2 * 128 * 32
    assert QuantizerShape(m=3, k=64, format=FP8).call_bytes == 2 * 3 * 64 + 3 * 64 + 4 * 3


def test_blackwells_kernels_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """MXFP8 and NVFP4 have times of the GEMM alone and of torchao's quantizer alone, beside bf16;
    NVFP4's GEMM takes no bias, and its quantizer is MSLK's where that is installed.
    """
    with a_blackwell(monkeypatch):
        found = runner().run(Job(kind="gemms", shapes=gemms(BF16, MXFP8, NVFP4)))["gemms"]
        assert [len(row["us"]) for row in found] == [2, 2, 2]
        wanted = tuple(QuantizerShape(m=16, k=64, format=name) for name in (MXFP8, NVFP4))
        rows = runner().run(Job(kind="quantizers", shapes=wanted))["quantizers"]
        assert [(row["key"], len(row["us"])) for row in rows] == [(str(s), 2) for s in wanted]
        install_mslk(monkeypatch)
        assert mslk.is_available()
        (row,) = runner().run(Job(kind="gemms", shapes=gemms(NVFP4)))["gemms"]
        assert row["reason"] is None


def _assert_sm100(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, a_blackwell(patch, before_sm100=True):
        shapes = (shape(4, 64, 32, NVFP4, eager=True),)
        rows = runner(bench=bench(quantize=quantize_native)).run(
            Job(kind="linears", shapes=shapes)
        )["rows"]
    by_format = {row["key"].split()[-1]: row for row in rows}
    assert by_format["bf16"]["us"]
    assert "AssertionError" in by_format["nvfp4"]["reason"]


def _no_mslk_at_the_first_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """`quantize_` succeeds, and torchao asserts in the first forward."""
    with monkeypatch.context() as patch, a_blackwell(patch):
        patch.setattr(mslk, "is_available", lambda: True)
        shapes = (shape(4, 64, 32, NVFP4, eager=True),)
        rows = runner(bench=bench(quantize=quantize_native)).run(
            Job(kind="linears", shapes=shapes)
        )["rows"]
    by_format = {row["key"].split()[-1]: row for row in rows}
    assert by_format["bf16"]["us"]
    assert "mslk is required" in by_format["nvfp4"]["reason"]


def _cublas_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def refuses(_m: int, _k: int, _n: int, bias: bool) -> bool:
            return bias

        with a_blackwell(patch, refuses=refuses):
            found = runner().run(Job(kind="gemms", shapes=gemms(BF16, MXFP8, NVFP4)))["gemms"]
    assert found[0]["us"]
    assert NOT_SUPPORTED in found[1]["reason"]
    assert found[2]["us"]


@pytest.mark.parametrize("fails", [_assert_sm100, _no_mslk_at_the_first_forward, _cublas_refuses])
def test_what_fails_is_a_row(
    fails: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format that asserts when it quantizes or at its first forward, and a GEMM that cuBLAS
    refuses, are rows with the reason; the other rows have their times.
    """
    fails(monkeypatch)


def test_agreement_says_what_zeros_become(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native kernels are compared with emulation; an input of zeros is NaN in NVFP4 in both, and
    finite in MXFP8.
    """
    with a_blackwell(monkeypatch):
        rows = runner().run(Job(kind="ulps", shapes=gemms(MXFP8, NVFP4, FP8)))["ulps"]
    zeros = {row["format"]: row for row in rows if row["inputs"] == "all zero"}
    assert set(zeros) == {"mxfp8", "nvfp4"}
    assert zeros["nvfp4"]["native_not_finite"] == 16 * 32
    assert zeros["mxfp8"]["native_not_finite"] == 0
    normal = [row for row in rows if row["inputs"] == "normal" and row["format"] == "mxfp8"]
    assert normal[0]["largest_ulp"] <= 1


def test_linears_and_attentions_are_rows() -> None:
    """Linears in blocks and attentions are timed as `measure_shapes` does; nothing is probed."""
    wanted: tuple[LinearShape, ...] = (shape(4, 32, 16, FP8),)
    rows = runner(bench=bench()).run(Job(kind="linears", shapes=wanted))["rows"]
    assert [row["key"].split()[-1] for row in rows] == ["bf16", "fp8"]
    assert all(row["us"] for row in rows)
    (row,) = runner().run(Job(kind="attention", shapes=(ATTENTION,)))["rows"]
    assert row["key"].startswith("attention")


def test_limits_and_launch_costs() -> None:
    """Bandwidths and rates are positive; a launch that fails is its reason, not an end."""
    limits = measure_limits(torch.device("cpu"), repetitions=2, copied_bytes=2**12, sizes=(8,))
    assert set(limits) == {
        "copy_bytes_per_s",
        "read_bytes_per_s",
        "bf16_flops_per_s",
        "bf16_steady_flops_per_s",
    }
    assert min(limits.values()) > 0

    def refuse(*_: object) -> None:
        raise RuntimeError("no such kernel")

    host = runner(bench=bench(quantize=refuse), formats=(FP8,)).run(Job(kind="launches"))["host"]
    assert host["eager_kernel_us"] > 0
    assert host["region_bf16_us"] > 0
    assert "no such kernel" in host["region_fp8_us"]


def test_a_runner_without_a_bench_keeps_its_pace() -> None:
    """What is sent to another process has the pace of the request."""
    sent = JobRunner(device="cpu", compile_mode="default", pace=QUICK, formats=())
    assert sent.bench is None
    assert QUICK.settle_s < 0.5
