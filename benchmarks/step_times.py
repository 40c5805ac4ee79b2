"""How long does each step of a run take, and how much of that is a change of precision?

For `step_switching.py`. A run is a loop of denoiser calls as a flow-matching pipeline makes them.

    run = Run(denoiser, inputs, steps=6)
    timed = run.timed(before_step)              # per step: milliseconds of GPU and of host
    switches_of(precisions, mixed, pure)        # percent of a step, for each change of precision

Method. CUDA events stand at the boundaries of steps, before the switch, so a step has all of what
its switch costs. Each step of a mixed run is divided by the median of the step at the same position
of runs in one precision. The cost of a switch is that ratio of the step right after it, less the
mean ratio of the later steps in the same precision of the same run. What the GPU's clocks do over
some steps raises all of these and falls out; `later_over_pure_percent` says how much it is.

`timed(..., waits=True)` empties the GPU's queue before each step: then the host's time is that of
its own work alone. `clocks` reads the clock of the GPU's SMs at boundaries, from the time that a
kernel takes which spins for a number of cycles.

Conventions. Times in milliseconds. On a CPU there are no events, and host's times stand for both.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CYCLES = 500_000
"""Of the kernel that spins: 0.3 ms at 1.7 GHz, of which an event resolves less than a percent."""
BeforeStep = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A run's latents after its last step, and milliseconds of each step."""

    latents: Tensor
    step_ms: list[float]
    host_ms: list[float]


class Run:
    """A loop of denoiser calls.

    Args:
        denoiser: Called in each step.
        inputs: Its arguments, by name; `hidden_states` are the latents of the first step.
        steps: How many.
    """

    def __init__(self, denoiser: nn.Module, inputs: dict[str, Any], steps: int) -> None:
        self.denoiser, self.inputs, self.steps = denoiser, inputs, steps
        self.device: torch.device = inputs["hidden_states"].device

    def latents(
        self,
        before_step: BeforeStep,
        *,
        steps: int | None = None,
        denoiser_of: Callable[[int], nn.Module] | None = None,
    ) -> Tensor:
        """The latents after the last step, or after the first `steps`. `denoiser_of`: the module
        that a step calls.
        """
        x: Tensor = self.inputs["hidden_states"]
        for step in range(steps or self.steps):
            before_step(step)
            module = self.denoiser if denoiser_of is None else denoiser_of(step)
            # the noise left, as the transformer takes it: 1 to 0
            at = torch.full_like(self.inputs["timestep"], 1 - step / self.steps)
            out = module(**self.inputs | {"hidden_states": x, "timestep": at})
            x = x - (out[0] if isinstance(out, tuple) else out.sample) / self.steps
        return x

    def timed(self, before_step: BeforeStep, *, waits: bool = False) -> Timed:
        """The times of a run. `waits`: a step begins when the GPU is done with the one before."""
        moments: list[float] = []
        ends: list[float] = []
        events = self._events(self.steps + 1)

        def boundary(step: int) -> None:
            ends.append(time.perf_counter())
            if waits:
                self.synchronize()
            moments.append(time.perf_counter())
            if events:
                events[step].record()

        def begin(step: int) -> None:
            boundary(step)
            before_step(step)

        self.synchronize()
        latents = self.latents(begin)
        boundary(self.steps)
        self.synchronize()
        pairs = zip(moments, ends[1:], strict=False)  # after the last step none begins
        host_ms = [1e3 * (end - begun) for begun, end in pairs]
        gpu_ms = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
        return Timed(latents=latents, step_ms=gpu_ms or host_ms, host_ms=host_ms)

    def clocks(self, before_step: BeforeStep) -> list[float] | None:
        """MHz of the GPU's SMs before each step and after the last; None on a CPU."""
        begins, ends = self._events(self.steps + 1), self._events(self.steps + 1)
        if not begins:
            return None

        def spin(step: int) -> None:
            begins[step].record()
            torch.cuda._sleep(CYCLES)  # type: ignore[no-untyped-call]
            ends[step].record()

        def begin(step: int) -> None:
            spin(step)
            before_step(step)

        self.latents(begin)
        spin(self.steps)
        self.synchronize()
        return [
            CYCLES / (1e3 * begun.elapsed_time(end))
            for begun, end in zip(begins, ends, strict=True)
        ]

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _events(self, count: int) -> list[Any]:
        if self.device.type != "cuda":
            return []
        make: Any = torch.cuda.Event
        return [make(enable_timing=True) for _ in range(count)]


def medians(runs: Sequence[Sequence[float]]) -> list[float]:
    """The median of each step over runs."""
    return [statistics.median(step) for step in zip(*runs, strict=True)]


def over_pure(
    mixed: Sequence[Sequence[float]], pure: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Percent by which each step of mixed runs takes longer than the median at its position.

    Args:
        mixed: Milliseconds of each step of each mixed run.
        pure: For each position, milliseconds of it in runs in the step's own precision.
    """
    expected = [statistics.median(each) for each in pure]
    return [
        [100 * (found / base - 1) for found, base in zip(run, expected, strict=True)]
        for run in mixed
    ]


def switches_of(
    precisions: Sequence[str], excess: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """What each change of precision costs, in percent of a step.

    Args:
        precisions: That of each step of a mixed run.
        excess: As `over_pure` gives it.

    Returns:
        For each step in another precision than the one before: which it is, the percent that it
        takes longer than later steps in its precision do (median, least and most of the runs), and
        the percent that these take longer than those of runs in one precision. None where no step
        in the same precision follows.
    """
    rows: list[dict[str, Any]] = []
    for step, precision in enumerate(precisions):
        if step == 0 or precision == precisions[step - 1]:
            continue
        stretch = next(itertools.groupby(precisions[step:]))[1]
        later = range(step + 1, step + len(list(stretch)))
        row: dict[str, Any] = {"step": step, "to": precision, "percent_of_a_step": None}
        if later:
            drift = [statistics.mean(run[j] for j in later) for run in excess]
            costs = [run[step] - each for run, each in zip(excess, drift, strict=True)]
            row |= {
                "percent_of_a_step": {
                    "median": statistics.median(costs),
                    "least": min(costs),
                    "most": max(costs),
                },
                "later_over_pure_percent": statistics.median(drift),
            }
        rows.append(row)
    return rows
