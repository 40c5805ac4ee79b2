"""`preview`: LPIPS between the clean pictures that one step predicts, bf16 against one job.

Method. At a step of a flow-matching run the latents are x_t = (1 - sigma) x0 + sigma noise and the
denoiser gives v = noise - x0 (Lipman et al. 2023, "Flow matching for generative modeling";
diffusers' FlowMatchEulerDiscreteScheduler steps by sigma differences along v). So x0 = x_t - sigma
v is the clean picture as that step predicts it. It is decoded and compared with the one that the
bf16 denoiser predicts, by the study's own LPIPS. Unlike an error at the denoiser's output, this
number weighs directions as eyes do. It is averaged over prompts and states.

How. The pipeline runs as always, so it unpacks, guides and decodes by itself (`Replay`). At every
step except the one that is previewed, its denoiser returns outputs that were recorded in a bf16
run; the last step of the scheduler returns the x0 of the previewed step. So a job and state cost
one real denoiser call (two with classifier-free guidance) and one decode. Where several denoisers
take turns, a job is previewed at steps of its own denoiser.

It does not work for other schedulers, for stochastic ones, and for pipelines that step their
scheduler more than once for each denoiser step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sensitivity.errors import MeasurementError, UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.models.media import Media
from sensitivity.search.calibration._base import Estimator, JobError
from sensitivity.search.calibration.jobs import EstimatorName, Job, finite
from sensitivity.search.calibration.states import (
    check_calls,
    check_finite,
    copied,
    first_tensor,
    generate_first,
    pick_calls,
)

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
OTHERS = "choose one of output, gradient and local"


class PreviewEstimator(Estimator):
    """See the module."""

    name = EstimatorName.PREVIEW
    unit = "job"
    quantity = "preview: LPIPS of x0 predictions"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        return (len(jobs) + 1) * states if jobs else 0.0

    def decodes(self, jobs: Sequence[Job], *, states: int) -> int:
        return (len(jobs) + 1) * states if jobs else 0

    def begin(
        self, evaluator: Evaluator, *, states: int, prompts: int
    ) -> Callable[[Sequence[Job]], Iterator[JobError]]:
        replays: list[Replay] = []
        clean: dict[str, list[tuple[int, Media]]] = {}

        @torch.no_grad()
        def run(jobs: Sequence[Job]) -> Iterator[JobError]:
            if not replays:
                check_scheduler(evaluator.loaded.pipe)
                evaluator.switch.set({})
                replays.append(Replay(evaluator, prompts))
            for name in parts_of(evaluator.loaded.denoiser):
                own = [job for job in jobs if job.is_of(name)]
                if own and name not in clean:
                    clean[name] = _clean(evaluator, replays[0], name, states)
                for job in own:
                    evaluator.switch.set(job.formats)
                    distances = [
                        _distance(evaluator, replays[0].preview(step), reference)
                        for step, reference in clean[name]
                    ]
                    yield JobError(job=job, state=None, error=sum(distances) / len(distances))

        return run

    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        return self.begin(evaluator, states=states, prompts=prompts)(jobs)


def _clean(
    evaluator: Evaluator, replay: "Replay", component: str, states: int
) -> list[tuple[int, Media]]:
    """[(step, what bf16 predicts at it)] of the steps at which a denoiser is previewed."""
    evaluator.switch.set({})
    steps = replay.steps_of(component)
    picked = [steps[i] for i in pick_calls(len(steps), states)]
    clean = [(step, replay.preview(step)) for step in picked]
    check_finite([media.pictures for _, media in clean])
    return clean


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
            f"the {type(pipe).__name__} has the scheduler {kind}; `estimator` preview expects"
            f" {', '.join(SCHEDULERS)}: {OTHERS}"
        )
    if getattr(pipe, "vocoder", None) is not None:
        raise UserError(
            f"the {type(pipe).__name__} makes sound with a scheduler of its own; `estimator`"
            f" preview expects a pipeline of pictures: {OTHERS}"
        )
    config = scheduler.config  # type: ignore[union-attr]
    if getattr(config, "stochastic_sampling", False) or getattr(config, "invert_sigmas", False):
        raise UserError(
            f"the {kind} of this pipeline is stochastic or inverted; `estimator` preview expects"
            f" one that steps along the denoiser's output: {OTHERS}"
        )


class Replay:
    """A recorded bf16 run of the first search prompts that can be run again with one real step.

    Attributes:
        steps: scheduler steps of the run.

    Raises:
        CalibrationError: a denoiser gives no tensor.
        MeasurementError: the run calls no denoiser, steps no scheduler, or gives NaN or inf.
    """

    def __init__(self, evaluator: Evaluator, prompts: int) -> None:
        self.evaluator, self.prompts = evaluator, prompts
        self._outputs: list[Any] = []
        self._called: list[tuple[int, str]] = []
        self._previewed: int | None = None
        self.steps = self._step = self._call = 0
        self._x0: Tensor | None = None
        with self._in_place():
            generate_first(evaluator, prompts)
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
        self._previewed = step
        with self._in_place():
            return generate_first(self.evaluator, self.prompts)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Inside, the denoisers' forwards and the scheduler's step go through this object."""
        scheduler = self.evaluator.loaded.pipe.scheduler
        denoisers: dict[str, Any] = {**parts_of(self.evaluator.loaded.denoiser)}
        owners = [*((part, "forward") for part in denoisers.values()), (scheduler, "step")]
        kept = [(owner, name, owner.__dict__.get(name)) for owner, name in owners]
        self._step = self._call = 0
        self._x0 = None
        for component, denoiser in denoisers.items():
            denoiser.forward = partial(self._forward, component, denoiser.forward)
        scheduler.step = partial(self._take_step, scheduler, scheduler.step)
        try:
            yield
        finally:
            for owner, name, own in kept:
                delattr(owner, name)
                if own is not None:  # the instance had an attribute of its own, as with offloading
                    setattr(owner, name, own)

    def _forward(self, component: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """A denoiser call: recorded in the first run; later real at the previewed step only."""
        call, self._call = self._call, self._call + 1
        if self._previewed is None:
            self._called.append((self._step, component))
            self._outputs.append(copied(forward(*args, **kwargs)))
            first_tensor(self._outputs[call])  # else the pipeline fails on it, with less to say
            return copied(self._outputs[call])
        if self._step == self._previewed:
            return forward(*args, **kwargs)
        return copied(self._outputs[call])

    def _take_step(
        self,
        scheduler: Any,
        take_step: Any,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """A scheduler step. The previewed one notes x0, the last one returns it as the latents."""
        if self._step == self._previewed:
            sigma = scheduler.sigmas[self._step].to(sample.device)
            self._x0 = (sample.float() - sigma * model_output.float()).to(sample.dtype)
        result = take_step(model_output, timestep, sample, *args, **kwargs)
        self._step += 1
        if self._x0 is None or self._step < self.steps:
            return result
        if isinstance(result, tuple):
            return (self._x0, *result[1:])
        return type(result)(prev_sample=self._x0)
