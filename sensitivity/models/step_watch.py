"""Which denoising step of a pipeline's call comes next, and how many has the run? `watching_steps`.

    def look(step, steps):          # before step 0, 1, ... of `steps`
        ...
    with watching_steps(pipe, look):
        pipe("a red ring")

Method. A diffusers pipeline makes its progress bar where the denoising loop begins; the number of
steps is known then. A step ends with `callback_on_step_end` where the pipeline's call has it, else
with `step` of the scheduler. A callback that a caller passes is called first, with the tensors that
it asks for.

Conventions. A step is one iteration of the loop, counted from 0, whatever the scheduler's order is:
Heun's makes 2 n - 1 of n inference steps. From a picture to a picture, a run has the steps that its
strength leaves. Which denoiser a step calls, and how often, does not matter. Where one call runs
several loops, each counts from 0; so after the last step of a loop `look` is called for step 0 of
another, which may not come.

What it does not do: see latents (`step_latents`). After the context, and where the pipeline raises,
the pipeline is what it was.
"""

import inspect
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from functools import wraps
from typing import Any

from sensitivity.errors import PipelineError
from sensitivity.models.entry_points import intercept

BeforeStep = Callable[[int, int], None]
"""(step, from 0; steps of the run) -> None."""
CALLBACK, INPUTS = "callback_on_step_end", "callback_on_step_end_tensor_inputs"
COUNTS = ("_num_timesteps", "num_timesteps")
"""Where pipelines of diffusers note how many iterations the loop of a call has."""


def refusal(pipe: Any) -> str | None:
    """Why steps of this pipeline cannot be counted; None where they can."""
    name = type(pipe).__name__
    if not callable(getattr(pipe, "progress_bar", None)):
        return f"the {name} has no `progress_bar`, which tells where its denoising loop begins"
    if has_callback(pipe) or callable(getattr(getattr(pipe, "scheduler", None), "step", None)):
        return None
    return (
        f"the {name} has neither `{CALLBACK}` nor a scheduler with a `step`, which tell where a"
        " denoising step ends"
    )


def has_callback(pipe: Any) -> bool:
    """Whether the pipeline's call takes a callback for each step."""
    return {CALLBACK, INPUTS} <= set(inspect.signature(type(pipe).__call__).parameters)


@contextmanager
def watching_steps(
    pipe: Any, before_step: BeforeStep, *, after_call: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside, whoever calls the pipeline: `before_step` is called before each denoising step.

    Args:
        pipe: a diffusers pipeline.
        before_step: called with the step, from 0, and the number of steps of the run.
        after_call: called when a call of the pipeline ends, also by an error.

    Raises:
        PipelineError: steps of this pipeline cannot be counted, or a call ended without one.
    """
    why = refusal(pipe)
    if why is not None:
        raise PipelineError(
            f"{why}; expected a pipeline as diffusers writes them: run it without a step policy"
        )
    kind = type(pipe)
    plain_call = kind.__call__
    signature = inspect.signature(plain_call)
    takes_callback = has_callback(pipe)

    @wraps(plain_call)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe:  # a copy
            return plain_call(self, *args, **kwargs)
        run = _Run(pipe, before_step)
        try:
            with run.seen(through_scheduler=not takes_callback):
                if not takes_callback:
                    return run.checked(plain_call(self, *args, **kwargs))
                given = signature.bind(self, *args, **kwargs)
                run.hear(given.arguments)
                return run.checked(plain_call(*given.args, **given.kwargs))
        finally:
            after_call()

    names = {"__call__": watched, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    pipe.__class__ = type(kind.__name__, (kind,), names)
    try:
        yield
    finally:
        pipe.__class__ = kind


class _Run:
    """One call of a pipeline."""

    def __init__(self, pipe: Any, before_step: BeforeStep) -> None:
        self._pipe, self._before_step = pipe, before_step
        self._step = self._begun = 0
        self._iterated: int | None = None
        self._total: int | None = None

    @contextmanager
    def seen(self, *, through_scheduler: bool) -> Iterator[None]:
        """Inside, the beginning of each loop is seen, and the end of each step if it is by the
        scheduler.
        """
        own = vars(self._pipe)
        kept = {name: own.pop(name) for name in COUNTS if name in own}  # of another call
        undo = [intercept(self._pipe, "progress_bar", self._with_bar)]
        if through_scheduler:
            undo.append(intercept(self._pipe.scheduler, "step", self._with_step))
        try:
            yield
        finally:
            for each in undo:
                each()
            for name, value in kept.items():
                own.setdefault(name, value)

    def hear(self, arguments: dict[str, Any]) -> None:
        """Have the call's callback tell of each step; one that is there already is called first."""
        theirs = arguments.get(CALLBACK)
        if theirs is not None and hasattr(theirs, "tensor_inputs"):  # diffusers' `PipelineCallback`
            arguments[INPUTS] = theirs.tensor_inputs

        def after(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            changed = {} if theirs is None else theirs(pipe, step, time, tensors)
            self._ended(step)
            return changed

        arguments[CALLBACK] = after

    def checked(self, result: Any) -> Any:
        """What the call gave. Raises PipelineError where no step was seen."""
        if not self._begun:
            raise PipelineError(
                f"found that a call of the {type(self._pipe).__name__} ended without a denoising"
                " step that can be counted; expected a loop with a progress bar: run it without a"
                " step policy"
            )
        return result

    def _with_bar(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """A loop begins."""
        iterated = args[0] if args else kwargs.get("iterable")
        self._iterated = len(iterated) if isinstance(iterated, Sized) else None
        self._total = args[1] if len(args) > 1 else kwargs.get("total")
        self._begin(0)
        return original(*args, **kwargs)

    def _with_step(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._ended(self._step)
        return result

    def _ended(self, step: int) -> None:
        self._begin((step + 1) % self._steps())

    def _begin(self, step: int) -> None:
        self._step = step
        self._begun += 1
        self._before_step(step, self._steps())

    def _steps(self) -> int:
        """The iterations of the loop: of what the bar counts off, where it does."""
        return self._iterated or noted_steps(self._pipe, total=self._total)


def noted_steps(pipe: Any, *, total: int | None = None) -> int:
    """How many iterations the loop has of the call that runs now.

    What the pipeline notes of it, else the last of the scheduler's timesteps, as many as `total`,
    the bar's, asks for (diffusers' `get_timesteps` of pipelines from picture to picture).
    """
    own = vars(pipe)
    for name in COUNTS:
        if isinstance(found := own.get(name), int) and found > 0:
            return found
    scheduler = getattr(pipe, "scheduler", None)
    timesteps = getattr(scheduler, "timesteps", None)
    if timesteps is None:
        return max(total or 1, 1)
    asked = getattr(scheduler, "num_inference_steps", None) or 0
    left_out = max(asked - (total or asked), 0) * getattr(scheduler, "order", 1)
    return max(len(timesteps) - left_out, 1)
