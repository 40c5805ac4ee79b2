"""Every denoising step is announced before it runs, with the number of steps of its run."""

import copy
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from sensitivity.errors import PipelineError
from sensitivity.models.step_watch import refusal, watching_steps

Events = list[Any]


class Barred:
    """A pipeline that notes what its denoiser would run, with diffusers' loop around it."""

    def __init__(self, scheduler: Any, events: Events) -> None:
        self.scheduler, self.events = scheduler, events

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:  # noqa: ARG002
        return iterable

    def denoise(self, step: int) -> Tensor:
        self.events.append(f"runs {step}")
        return torch.zeros(1, 2)


class Plain(Barred):
    """Takes no callback, and notes no number of steps: what is left of a strength is the bar's."""

    def __call__(self, steps: int, *, skip: int = 0, fails_at: int | None = None) -> str:
        self.scheduler.set_timesteps(steps)
        self.progress_bar(total=steps - skip)
        for step, time in enumerate(self.scheduler.timesteps[skip * self.scheduler.order :]):
            if step == fails_at:
                raise ValueError("no more")
            self.scheduler.step(self.denoise(step), time, torch.zeros(1, 2))
        return "done"


class Called(Barred):
    """Takes diffusers' callback, and runs its loop `loops` times."""

    def __call__(
        self,
        steps: int,
        loops: int = 1,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> Tensor:
        latents = torch.zeros(1, 2)
        for _ in range(loops):
            self._num_timesteps = steps
            self.progress_bar(total=steps * loops)
            for step in range(steps):
                latents = latents + 1
                self.denoise(step)
                if callback_on_step_end is not None:
                    given = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
                    latents = callback_on_step_end(self, step, 0, given).pop("latents", latents)
        return latents


def watched(pipe: Barred, *calls: dict[str, Any]) -> Events:
    """What happens in calls of the pipeline, announcements included."""

    def before_step(step: int, steps: int) -> None:
        pipe.events.append((step, steps))

    with watching_steps(pipe, before_step, after_call=lambda: pipe.events.append("after")):
        for call in calls:
            pipe(**call)
    return pipe.events


def run_of(steps: int, of: int | None = None) -> Events:
    """The events of a whole run, with the announcement of a loop that may follow."""
    n = of or steps
    events = [event for step in range(steps) for event in ((step, n), f"runs {step}")]
    return [*events, (0, n)]


def test_each_step_is_announced_before_it_runs() -> None:
    """Call after call with its own number of steps, and in a call of two loops each from 0."""
    events = watched(Called(None, []), {"steps": 3}, {"steps": 2}, {"steps": 2, "loops": 2})
    twice = [*run_of(2), *run_of(2)]
    assert events == [*run_of(3), "after", *run_of(2), "after", *twice, "after"]


@pytest.mark.parametrize(
    ("scheduler", "steps", "skip", "expected"),
    [
        (FlowMatchEulerDiscreteScheduler, 4, 0, 4),
        (FlowMatchEulerDiscreteScheduler, 4, 3, 1),
        (FlowMatchHeunDiscreteScheduler, 4, 0, 7),
        (FlowMatchHeunDiscreteScheduler, 4, 2, 3),
    ],
)
def test_a_pipeline_without_a_callback_is_counted_by_its_scheduler(
    scheduler: Any, steps: int, skip: int, expected: int
) -> None:
    """A step is an iteration of the loop: Heun's makes 2 n - 1 of n inference steps, and a run from
    a picture has those that its strength leaves.
    """
    pipe = Plain(scheduler(), [])
    assert watched(pipe, {"steps": steps, "skip": skip}) == [*run_of(expected), "after"]
    assert "step" not in vars(pipe.scheduler)


def test_a_callback_that_is_there_is_called_with_what_it_asks_for() -> None:
    """Ours goes with it: it comes first, as argument by place or name, and may change latents; an
    object that says which tensors it needs gets them.
    """
    heard: Events = []
    pipe = Called(None, [])

    def callback(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        heard.append((step, sorted(tensors)))
        pipe.events.append(f"heard {step}")
        return {"latents": tensors["latents"] * 10}

    with watching_steps(pipe, lambda step, _steps: pipe.events.append(step)):
        assert float(pipe(2, 1, callback)[0, 0]) == 110
    assert pipe.events == [0, "runs 0", "heard 0", 1, "runs 1", "heard 1", 0]
    asks = SimpleNamespace(tensor_inputs=["latents", "mask"])

    class Asking:
        tensor_inputs = asks.tensor_inputs

        def __call__(self, *given: Any) -> dict[str, Any]:
            return callback(*given)

    with watching_steps(pipe, lambda *_: None):
        pipe(1, callback_on_step_end=Asking())
    assert heard[-1] == (0, ["latents", "mask"])


def test_an_error_leaves_the_pipeline_as_it_was() -> None:
    """Inside the context the next call begins at step 0; after it class, scheduler and signature
    are those of before, and nothing is announced.
    """
    pipe = Plain(FlowMatchEulerDiscreteScheduler(), [])
    before = dict(vars(pipe)), dict(vars(pipe.scheduler)).keys()
    seen: Events = []
    with watching_steps(pipe, lambda *at: seen.append(at), after_call=lambda: seen.append("after")):
        assert type(pipe).__name__ == "Plain"
        assert "fails_at" in inspect.signature(type(pipe).__call__).parameters
        with pytest.raises(ValueError, match="no more"):
            pipe(3, fails_at=1)
        assert seen == [(0, 3), (1, 3), "after"]
        assert "progress_bar" not in vars(pipe)
        other = copy.copy(pipe)
        assert other(2) == "done"  # a copy is not watched
        assert seen[3:] == []
        assert pipe(2) == "done"
    assert seen[3:] == [(0, 2), (1, 2), (0, 2), "after"]
    pipe(2)
    assert len(seen) == 7
    assert type(pipe) is Plain
    assert vars(pipe) == before[0]
    assert "step" not in vars(pipe.scheduler)


def test_what_cannot_be_counted_is_refused() -> None:
    """A pipeline without a progress bar, without callback and scheduler, or whose call makes no
    loop: the message says what is missing.
    """

    class Bare:
        def __call__(self) -> None:
            """Do nothing."""

    class Silent(Barred):
        def __call__(self) -> None:
            """Do nothing."""

    assert "no `progress_bar`" in str(refusal(Bare()))
    with pytest.raises(PipelineError, match=r"no `progress_bar`.*without a step policy"):
        watched(Bare())  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="neither `callback_on_step_end` nor a scheduler"):
        watched(Silent(None, []))
    silent = Silent(FlowMatchEulerDiscreteScheduler(), [])
    with pytest.raises(PipelineError, match="ended without a denoising step"):
        watched(silent, {})
