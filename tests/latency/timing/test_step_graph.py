"""One graph replays a whole denoiser call: inputs are copied to where it reads, outputs are copies.

On a CPU nothing is captured, and replaying calls the denoiser with the copied inputs.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sensitivity.errors import MeasurementError
from sensitivity.latency.timing import step_graph
from sensitivity.latency.timing.step_graph import StepGraph


class Captured:
    """A denoiser that keeps the addresses of what it was given, and returns one buffer."""

    def __init__(self) -> None:
        self.addresses: list[int] = []
        self.buffer = torch.zeros(3)

    def __call__(self, x: Tensor, *, scale: float = 2.0) -> dict[str, Any]:
        self.addresses.append(x.data_ptr())
        return {"out": self.buffer.copy_(x * scale), "label": "kept"}


def test_calls_of_one_kind_read_one_address() -> None:
    """New values go to the captured inputs; an earlier output is not overwritten."""
    denoiser = Captured()
    call = StepGraph(denoiser, torch.device("cpu"))
    first: Any = call(torch.tensor([1.0, 2.0, 3.0]))
    second: Any = call(torch.tensor([4.0, 5.0, 6.0]))
    assert first["out"].tolist() == [2, 4, 6]
    assert second["out"].tolist() == [8, 10, 12]
    assert second["label"] == "kept"
    assert len(set(denoiser.addresses)) == 1


def test_another_shape_or_value_is_another_graph() -> None:
    """Each kind of arguments has inputs of its own."""
    denoiser = Captured()
    call = StepGraph(denoiser, torch.device("cpu"))
    results: list[Any] = [call(torch.ones(3)), call(torch.ones(3), scale=3.0), call(torch.ones(1))]
    assert [found["out"].tolist() for found in results] == [[2] * 3, [3] * 3, [2] * 3]
    assert len(set(denoiser.addresses)) == 3


def test_arguments_that_change_at_every_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is no tensor would be captured anew at each step: the message says so."""
    monkeypatch.setattr(step_graph, "MAX_GRAPHS", 2)
    call = StepGraph(Captured(), torch.device("cpu"))
    call(torch.ones(3), scale=1.0)
    call(torch.ones(3), scale=2.0)
    with pytest.raises(MeasurementError, match="more than 2 kinds of arguments; expected"):
        call(torch.ones(3), scale=3.0)
