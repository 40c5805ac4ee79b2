"""`preview`:

LPIPS between the clean pictures that one step predicts, with and without the job quantized.

Method. At a step of a flow-matching run the latents are x_t = (1 - sigma) x0 + sigma noise and the
denoiser gives v = noise - x0 (Lipman et al. 2023, "Flow matching for generative modeling";
diffusers' FlowMatchEulerDiscreteScheduler steps by sigma differences along v), so x0 = x_t - sigma
v is the picture as far as it can be told at that step. It is decoded, and compared with the bf16
one by the study's own perceptual distance: unlike an error at the denoiser's output, it weighs
directions as eyes do. The number is the LPIPS, averaged over prompts and states.

How. The pipeline itself unpacks, guides and decodes: it runs as always, but its denoiser answers
from memory (a recorded bf16 run) at every step except the one that is looked at, and the
scheduler's last step gives back that step's x0. So one real denoiser call (two with classifier-free
guidance) and one decode a job and state. Where several denoisers take turns, a job is looked at in
steps of its own.

What it does not do: other schedulers, stochastic ones, pipelines whose scheduler is stepped more
than once a denoiser step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sensitivity.errors import MeasurementError, UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.models.media import Media
from sensitivity.search.calibration._base import Estimator, Measured, finite, first_tensor
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.states import (
    check_calls,
    check_finite,
    copied,
    paint_first,
    pick_calls,
)

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)


class PreviewError(Estimator):
    """See the module."""

    name = EstimatorName.PREVIEW
    unit = "job"
    measure = "preview: LPIPS of x0 predictions"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return (len(jobs) + 1) * states if jobs else 0.0

    def decodes(self, jobs: Sequence[Job], *, states: int) -> int:
        return (len(jobs) + 1) * states if jobs else 0

    @torch.no_grad()
    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[Measured]:
        check_scheduler(evaluator.loaded.pipe)
        evaluator.switch.set({})
        replay = Replay(evaluator, prompts)
        for name in parts_of(evaluator.loaded.denoiser):
            own, its_steps = [job for job in jobs if job.is_of(name)], replay.steps_of(name)
            if not own:
                continue
            evaluator.switch.set({})
            steps = [its_steps[i] for i in pick_calls(len(its_steps), states)]
            clean = [replay.preview(step) for step in steps]
            check_finite([media.pictures for media in clean])
            for job in own:
                evaluator.switch.set(job.formats)
                distances = [
                    _distance(evaluator, replay.preview(step), reference)
                    for step, reference in zip(steps, clean, strict=True)
                ]
                yield Measured(job=job, state=None, error=sum(distances) / len(distances))


def _distance(evaluator: Evaluator, pictures: Media, references: Media) -> float:
    """Mean LPIPS over the pictures or clips; BROKEN where one is not finite, or blank."""
    try:
        return finite(float(evaluator.comparison.lpips(pictures, references)[0].mean()))
    except MeasurementError:
        return finite(float("nan"))


def check_scheduler(pipe: Any) -> None:
    """Raise UserError unless x0 = x_t - sigma v holds for this pipeline's scheduler."""
    scheduler = getattr(pipe, "scheduler", None)
    kind = type(scheduler).__name__
    if kind not in SCHEDULERS:
        raise UserError(
            f"--estimator preview needs a scheduler of class {', '.join(SCHEDULERS)}, and the"
            f" {type(pipe).__name__} has {kind}; allowed for it are output, gradient and local:"
            " choose one of them"
        )
    if getattr(pipe, "vocoder", None) is not None:
        raise UserError(
            f"--estimator preview looks at pictures, and the {type(pipe).__name__} steps a"
            " scheduler of its own for sound; allowed for it are output, gradient and local:"
            " choose one of them"
        )
    config = scheduler.config  # type: ignore[union-attr]
    if getattr(config, "stochastic_sampling", False) or getattr(config, "invert_sigmas", False):
        raise UserError(
            f"--estimator preview needs a {kind} that steps along the denoiser's output, and this"
            " one is stochastic or inverted; allowed are output, gradient and local: choose one of"
            " them"
        )


class Replay:
    """A bf16 run of the first search prompts, recorded, that can be run again with one real step.

    Attributes:
        steps: scheduler steps of the run.
    """

    def __init__(self, evaluator: Evaluator, prompts: int) -> None:
        self.evaluator, self.prompts = evaluator, prompts
        self._outputs: list[Any] = []
        self._called: list[tuple[int, str]] = []
        self._looked_at: int | None = None
        self.steps = self._step = self._call = 0
        self._x0: Tensor | None = None
        with self._watched():
            paint_first(evaluator, prompts)
        self.steps = self._step
        check_calls(len(self._outputs))
        check_finite([first_tensor(output) for output in self._outputs])
        if not self.steps:
            raise MeasurementError(
                "the pipeline never stepped its scheduler: there is no clean picture to predict"
            )

    def steps_of(self, component: str) -> list[int]:
        """The steps in which the run called this denoiser."""
        return list(dict.fromkeys(step for step, name in self._called if name == component))

    def preview(self, step: int) -> Media:
        """The clean pictures or clips that `step` predicts with the formats that are set."""
        self._looked_at = step
        with self._watched():
            return paint_first(self.evaluator, self.prompts)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """The denoisers' forwards and the scheduler's step go through this object inside."""
        scheduler = self.evaluator.loaded.pipe.scheduler
        denoisers: dict[str, Any] = {**parts_of(self.evaluator.loaded.denoiser)}
        take_step = scheduler.step
        kept = [
            (owner, name, owner.__dict__.get(name))
            for owner, name in (
                *((part, "forward") for part in denoisers.values()),
                (scheduler, "step"),
            )
        ]
        self._step = self._call = 0
        self._x0 = None

        def answer(component: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
            call, self._call = self._call, self._call + 1
            if self._looked_at is None:
                self._called.append((self._step, component))
                self._outputs.append(copied(forward(*args, **kwargs)))
                return copied(self._outputs[call])
            return (
                forward(*args, **kwargs)
                if self._step == self._looked_at
                else copied(self._outputs[call])
            )

        def step(
            model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            if self._step == self._looked_at:
                self._x0 = (
                    sample.float()
                    - scheduler.sigmas[self._step].to(sample.device) * model_output.float()
                ).to(sample.dtype)
            result = take_step(model_output, timestep, sample, *args, **kwargs)
            self._step += 1
            if self._x0 is None or self._step < self.steps:
                return result
            return (
                (self._x0, *result[1:])
                if isinstance(result, tuple)
                else type(result)(prev_sample=self._x0)
            )

        for component, denoiser in denoisers.items():
            denoiser.forward = partial(answer, component, denoiser.forward)
        scheduler.step = step
        try:
            yield
        finally:
            for owner, name, own in kept:
                delattr(owner, name)
                if own is not None:  # it had one of its own, as offloading sets it
                    setattr(owner, name, own)
