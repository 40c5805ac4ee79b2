"""A run that a kernel stops says at which Linear, and with which shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.errors import MeasurementError
from sensitivity.latency.timing.refused_linears import linear_that_stops, naming_refusals

from support.latency import FP8

ERROR = "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic("


class TwoLinears(nn.Module):
    """Two Linears; `fails` says which of them no kernel takes, and with what error."""

    def __init__(self, fails: str, error: str = ERROR) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
        for name, linear in self.named_children():
            if name == fails:
                linear.forward = partial(_fail, error)  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def _fail(error: str, _: Tensor) -> Tensor:
    raise RuntimeError(error)


@contextmanager
def compiled(module: nn.Module) -> Iterator[None]:
    """Stands for a compiled graph: it fails without running any hook."""

    def graph(*_: Any) -> None:
        raise RuntimeError(f"the compiler says: {ERROR}")

    module._compiled_call_impl = graph  # type: ignore[assignment]
    yield


def test_the_linear_is_named_with_its_shape() -> None:
    """The compiled run says only what cuBLAS said; the message names Linear, format and shape."""
    denoiser = TwoLinears("second")
    call = partial(denoiser, torch.zeros(2, 3, 8))
    with (
        pytest.raises(
            MeasurementError,
            match=r"second cannot run in fp8: refused by the kernel: CUBLAS_STATUS_NOT_SUPPORTED"
            r" for M=6 K=16 N=8 without a bias; expected .*leave this Linear",
        ),
        compiled(denoiser),
        naming_refusals(denoiser, [call], {"second": FP8}),
    ):
        call()
    assert denoiser._compiled_call_impl is not None, "it is as it was"
    assert not denoiser.second._forward_hooks


@pytest.mark.parametrize(
    ("fails", "raised"),
    [("first", "index out of range"), ("first", ERROR), ("", ERROR)],
    ids=["another error", "a Linear in bf16", "it runs eagerly"],
)
def test_other_errors_pass(fails: str, raised: str) -> None:
    """What is not about a quantized Linear's shape stays what it was."""
    denoiser = TwoLinears(fails, raised)

    def run() -> None:
        with naming_refusals(denoiser, [partial(denoiser, torch.zeros(2, 8))], {}):
            _fail(raised, torch.zeros(1))

    with pytest.raises(RuntimeError, match=raised[:18]):
        run()


def test_a_run_that_does_not_stop_has_no_such_linear() -> None:
    """Nothing is named, and nothing is left on the module."""
    denoiser = TwoLinears("")
    assert linear_that_stops(denoiser, [partial(denoiser, torch.zeros(2, 8))]) is None
    assert not denoiser.first._forward_pre_hooks
