"""On a GPU: jobs of `device measure` give times of every native format, and a process of its own
survives what it measures.
"""

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.latency.kernel_shapes import GemmShape, QuantizerShape
from sensitivity.latency.timing.device_jobs import Job, JobRunner, Pace
from sensitivity.workflows.device_measure import native_formats
from sensitivity.workflows.measuring_process import MeasuringProcess

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_single_kernels_have_plausible_times() -> None:
    """A GEMM of 4096 x 4096 x 4096 runs at more than 50 TFLOP/s in every native format; a
    quantizer alone takes at least its bytes at 10 TB/s.
    """
    formats = native_formats("cuda")
    runner = JobRunner(
        device="cuda:0",
        compile_mode="reduce-overhead",
        pace=Pace(repetitions=3, pause_s=0.005, settle_s=0.05),
        formats=formats,
        copied_bytes=2**28,
        sizes=(4096,),
    )
    sizes = {"m": 4096, "k": 4096, "n": 4096, "bias": True}
    gemms = tuple(GemmShape(**sizes, format=name) for name in (FormatName.BF16, *formats))
    quantizers = tuple(QuantizerShape(m=4096, k=4096, format=name) for name in formats)
    with MeasuringProcess(runner) as process:
        rows = process.run(Job(kind="gemms", shapes=gemms), patience_s=120)["gemms"]
        for row in rows:
            assert row["reason"] is None, row
            assert 2 * 4096**3 / min(row["us"]) * 1e6 > 5e13
        for row in process.run(Job(kind="quantizers", shapes=quantizers), patience_s=300)[
            "quantizers"
        ]:
            assert row["reason"] is None, row
            assert min(row["us"]) > 2 * 4096**2 / 1e13 * 1e6
        limits = process.run(Job(kind="limits"), patience_s=120)["limits"]
        assert limits["copy_bytes_per_s"] > 2e11
        host = process.run(Job(kind="launches"), patience_s=300)["host"]
        assert host["graph_kernel_us"] < host["region_bf16_us"]
