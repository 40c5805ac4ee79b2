"""On a CUDA device: what its kernels refuse is found in another process, and named.

python -m pytest tests/gpu/test_probing_gpu.py -m gpu -s
"""

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.formats import get_format
from sensitivity.latency.devices import find_device
from sensitivity.latency.refusals import refusal_of
from sensitivity.latency.timing.probing import probe_shapes
from sensitivity.latency.timing.shape_timing import measure_shapes

from support.latency import BF16, FP8, shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RUNS = shape(4096, 3072, 3072, FP8)
KNOWN = shape(14, 12288, 3072, FP8)
"""Refused on Hopper with torch 2.11 and cuBLAS 13.1."""


@pytest.fixture(autouse=True)
def _fp8() -> None:
    reason = get_format(FormatName.FP8).native_refusal(torch.device("cuda"))
    if reason is not None:
        pytest.skip(reason)


def test_every_shape_gets_a_result_and_this_process_stays_whole() -> None:
    """What runs has run; what is refused says why; the GPU can be used here afterwards."""
    results = probe_shapes([RUNS, KNOWN], device="cuda:0", machine={})
    print(results)
    assert results[RUNS].outcome == "ran"
    assert results[KNOWN].outcome in ("ran", "refused")
    if results[KNOWN].outcome == "refused":
        assert "for M=14 K=12288 N=3072 with a bias" in str(results[KNOWN].reason)
    assert torch.ones(8, device="cuda").sum().item() == 8


def test_what_ships_is_what_this_gpu_says() -> None:
    """A refusal that ships for this GPU is one here, with the versions that it was seen with."""
    device = find_device(torch.cuda.get_device_name())
    if device is None or not torch.__version__.startswith("2.11"):
        pytest.skip("nothing is known of this GPU with these versions")
    results = probe_shapes([RUNS, KNOWN], device="cuda:0", machine={})
    for tried, result in results.items():
        known = refusal_of(device, **tried.sizes, format=tried.format)
        assert (result.outcome == "refused") == (known is not None)


def test_a_refused_shape_is_a_row_among_timed_ones() -> None:
    """Timing goes on around it, in the same process."""
    times = measure_shapes(
        [KNOWN, shape(14, 3072, 3072, FP8)], device="cuda", compile_mode="default", repetitions=2
    )
    assert times.rows[str(shape(14, 3072, 3072, FP8))].us
    assert times.rows[str(shape(14, 12288, 3072, BF16))].us
    row = times.rows[str(KNOWN)]
    assert row.us or str(row.reason).startswith("refused by the kernel")
