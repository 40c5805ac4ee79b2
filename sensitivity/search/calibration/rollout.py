"""`rollout`: the error of the latents after the first steps of a run with only one job quantized.

Method. The pipeline runs its first steps for a few search prompts, once in bf16 and once for each
job. The error of a prompt is |latents - bf16's| / |bf16's| after the last of these steps; where
sound has latents too, the root of the sum of both squares. The error of a job is the geometric mean
over the prompts.

So it sees what the estimators at single calls do not: how an error grows from step to step on the
model's own path. And latents do not flip to another picture, so that two prompts say as much as ten
do in LPIPS (LOG.md).

Shared by all jobs are encoded texts, initial latents and the bf16 run. Prompts are one batch. Jobs
are not: each Linear would have to know which rows of a batch belong to which job. It would save 29
% of the time of a small model on a CPU, and little where a GPU is full already.

Several denoisers (`models.denoisers`). A job is quantized over the first part of the steps of its
own denoiser. Steps before these are not computed again: their denoisers return what they returned
in the bf16 run.

It costs `states` denoising steps for each job, with guidance as always, and decodes nothing. It
needs a pipeline whose steps can be seen (`models.step_latents`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sensitivity.errors import CalibrationError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.latents import relative_errors
from sensitivity.models.compiled_regions import regions_of
from sensitivity.models.denoisers import parts_of
from sensitivity.models.entry_points import intercept
from sensitivity.models.step_latents import AfterStep, refusal, run_steps
from sensitivity.search.calibration._base import Estimator, JobError
from sensitivity.search.calibration.jobs import EstimatorName, Job, finite
from sensitivity.search.calibration.states import (
    check_calls,
    check_finite,
    first_tensor,
    watching_denoisers,
)

INSTEAD = "calibrate with `estimator` gradient instead"
ALL_STEPS = 10**9
LEAST = 1e-9
"""The least error of a prompt: the logarithm of 0 is none."""
Latents = tuple[Tensor, ...]


class RolloutEstimator(Estimator):
    """See the module."""

    name = EstimatorName.ROLLOUT
    unit = "job"
    quantity = "rollout: relative error of latents, geometric mean"
    inputs = "steps"
    default_prompts = 2

    def default_states(self, steps: int) -> int:
        return (steps + 1) // 2

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return len(jobs) * states

    def refusal(self, pipe: Any) -> str | None:
        return refusal(pipe)

    def begin(
        self, evaluator: Evaluator, *, states: int, prompts: int
    ) -> Callable[[Sequence[Job]], Iterator[JobError]]:
        paths: list[Bf16Path] = []

        @torch.no_grad()
        def run(jobs: Sequence[Job]) -> Iterator[JobError]:
            if not paths:
                path = evaluator.blocks.attempt(
                    lambda: Bf16Path(evaluator, steps=states, prompts=prompts),
                    given_up=lambda: None,
                )
                paths.append(path)
            yield from _errors(paths[0], evaluator, jobs)

        return run

    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        return self.begin(evaluator, states=states, prompts=prompts)(jobs)


def _errors(path: "Bf16Path", evaluator: Evaluator, jobs: Sequence[Job]) -> Iterator[JobError]:
    for component, (start, stop) in path.windows.items():
        for job in jobs:
            if job.is_of(component):
                evaluator.switch.set(job.formats)
                latents = path.run_again(start, stop)
                yield JobError(job=job, state=None, error=path.error(latents, stop))


class Bf16Path:
    """A bf16 run of the first search prompts whose steps can be run again with other formats.

    Args:
        evaluator: its pipeline is run.
        steps: of a whole run; of several denoisers, each has its part of them.
        prompts: how many search prompts, from the first.
        replays: whether runs may start at any step; else only where a denoiser's jobs start.

    Attributes:
        steps: that were run.
        windows: {component: (first step of it, step before which its jobs end)}.

    Raises:
        CalibrationError: no step can be seen, or a denoiser gives no tensor or is called in none.
        MeasurementError: no denoiser was called, or one gives NaN or inf.
    """

    def __init__(
        self, evaluator: Evaluator, *, steps: int, prompts: int, replays: bool = False
    ) -> None:
        self._evaluator = evaluator
        texts, seeds = evaluator.prompts("search")
        self._prompts = texts[:prompts], seeds[:prompts]
        self._parts = parts_of(evaluator.loaded.denoiser)
        self._after: list[Latents] = []
        self._calls: list[tuple[int, str, Any]] = []
        self._step = self._call = 0
        several = len(self._parts) > 1
        with watching_denoisers(evaluator, partial(self._record, kept=several or replays)):
            done = self._run(ALL_STEPS if several else steps, self._keep)
        check_calls(len(self._calls))
        self.steps = done
        if not done:
            raise CalibrationError(
                f"the {type(evaluator.loaded.pipe).__name__} ended without a step that can be"
                f" seen; {INSTEAD}"
            )
        check_finite([tensor for latents in self._after for tensor in latents])
        share = min(steps / done, 1.0) if several else 1.0
        self.windows = {name: self._window(name, share) for name in self._parts}
        last = done if replays else max(start for start, _ in self.windows.values())
        self._calls = [call for call in self._calls if call[0] < last]

    def _record(
        self,
        component: str,
        _module: object,
        _args: object,
        _kwargs: object,
        output: Any,
        *,
        kept: bool,
    ) -> None:
        """Note a call of a denoiser; `kept`: with its output, in host memory."""
        first_tensor(output)  # else the pipeline fails on it, with less to say
        self._calls.append((self._step, component, _copied(output, "cpu") if kept else None))

    def _keep(self, step: int, latents: Latents) -> None:
        self._after.append(tuple(tensor.clone() for tensor in latents))
        self._step = step + 1

    def _window(self, component: str, share: float) -> tuple[int, int]:
        """The first part of the steps in which the run called a denoiser."""
        own = list(dict.fromkeys(step for step, name, _ in self._calls if name == component))
        if not own:
            raise CalibrationError(f"the run never called {component}; {INSTEAD}")
        return own[0], own[math.ceil(share * len(own)) - 1] + 1

    def run_again(
        self, start: int, stop: int, before_step: Callable[[int], None] = lambda _step: None
    ) -> Latents:
        """Latents before step `stop`, with the formats that are set from step `start` on.

        `before_step` is called with the number of each step before it runs, from 0 on.
        """
        found: Latents = ()

        def keep(step: int, latents: Latents) -> None:
            nonlocal found
            found = latents
            self._step = step + 1
            before_step(step + 1)

        before_step(0)
        with self._replaying(start):
            self._run(stop, keep)
        return found

    def error(self, latents: Latents, stop: int) -> float:
        """The geometric mean of the prompts' errors; BROKEN where one is NaN or inf."""
        each = relative_errors(latents, self._after[stop - 1]).double()
        return finite(float(each.clamp(min=LEAST).log().mean().exp()))

    def _run(self, steps: int, after_step: AfterStep) -> int:
        """Run the first steps. Blocks are compiled as those of a trial are, unless a denoiser is
        one region, whose calls are answered from memory.
        """
        evaluator, self._step, self._call = self._evaluator, 0, 0
        whole = {id(part) for part in self._parts.values()}
        regions = regions_of(evaluator.loaded.denoiser)[1].values()
        compiled = not any(id(region) in whole for region in regions)
        with evaluator.blocks.running() if compiled else nullcontext():
            return run_steps(
                evaluator.media_generator, *self._prompts, steps=steps, after_step=after_step
            )

    @contextmanager
    def _replaying(self, start: int) -> Iterator[None]:
        """Inside, denoisers return what they returned in the bf16 run, before step `start`."""
        undo = [
            intercept(part, "forward", partial(self._answer, start))
            for part in (self._parts.values() if start else ())
        ]
        try:
            yield
        finally:
            for each in undo:
                each()

    def _answer(self, start: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if self._step >= start:
            return forward(*args, **kwargs)
        *_, output = self._calls[self._call]
        self._call += 1
        return _copied(output, self._evaluator.loaded.device)


def _copied(output: Any, device: str) -> Any:
    """A denoiser's output with its tensors copied to a device."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device, copy=True), output)
