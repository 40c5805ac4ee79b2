"""What are a pipeline's latents after each denoising step? `run_steps`.

    def look(step, latents):                # after step 0, 1, ...; latents: ((B, ...), ...)
        ...
    run_steps(generator, prompts, seeds, steps=4, after_step=look)

The pipeline runs as always: it encodes, guides and steps by itself. After the last step that is
asked for its call is ended by an exception, so nothing is decoded.

Steps are seen through diffusers' `callback_on_step_end` where the pipeline's call has it. Latents
of sound are read beside those of pictures (`PARTNERS`). Pipelines without it are seen through
`step` of their scheduler.

Conventions. All prompts are one batch, whose first axis is that of the prompts. Latents are as the
pipeline has them: packed or not, on its device. They are not copied.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor

from sensitivity.errors import CalibrationError
from sensitivity.models.entry_points import intercept
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.step_watch import CALLBACK, INPUTS, has_callback

AfterStep = Callable[[int, tuple[Tensor, ...]], None]
PARTNERS = ("audio_latents", "sound_latents")
"""What diffusers' pipelines call latents that have steps of their own beside `latents`."""


class _StepsDone(BaseException):
    """The steps that were asked for are done. No pipeline catches a BaseException."""


def refusal(pipe: Any) -> str | None:
    """Why steps of this pipeline cannot be seen; None where they can."""
    if _has_callback(pipe) or callable(getattr(getattr(pipe, "scheduler", None), "step", None)):
        return None
    return (
        f"the {type(pipe).__name__} has neither `callback_on_step_end` nor a scheduler with a"
        " `step`: its latents cannot be seen"
    )


def run_steps(
    generator: MediaGenerator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    after_step: AfterStep,
) -> int:
    """Run the first `steps` steps of one pipeline call.

    Args:
        generator: of the pipeline.
        prompts: B texts, one batch.
        seeds: B seeds.
        steps: how many; all where the run has fewer.
        after_step: called with the number of the step, from 0, and its latents.

    Returns:
        The steps that ran.

    Raises:
        CalibrationError: no step can be seen.
        PipelineError: as `MediaGenerator.generate`.
    """
    pipe, done = generator.loaded.pipe, 0
    why = refusal(pipe)
    if why is not None:
        raise CalibrationError(why)

    def note(latents: tuple[Tensor, ...]) -> None:
        nonlocal done
        after_step(done, latents)
        done += 1
        if done == steps:
            raise _StepsDone

    with _watched(pipe, note) as settings, suppress(_StepsDone):
        generator.generate(prompts, seeds, batch_size=len(prompts), **settings)
    return done


@contextmanager
def _watched(pipe: Any, note: Callable[[tuple[Tensor, ...]], None]) -> Iterator[dict[str, Any]]:
    """Inside, `note` gets the latents after each step. Yields arguments for the pipeline's call."""
    if not _has_callback(pipe):
        undo = intercept(pipe.scheduler, "step", partial(_noted, note))
        try:
            yield {}
        finally:
            undo()
        return
    variables = inspect.unwrap(type(pipe).__call__).__code__.co_varnames
    names = ["latents", *(name for name in PARTNERS if name in variables)]

    def after(_pipe: Any, _step: int, _time: Any, found: dict[str, Any]) -> dict[str, Any]:
        note(tuple(x for name in names if isinstance(x := found.get(name), Tensor)))
        return {}

    before = pipe.__dict__.get("_callback_tensor_inputs")
    pipe._callback_tensor_inputs = [*dict.fromkeys([*pipe._callback_tensor_inputs, *names])]
    try:
        yield {CALLBACK: after, INPUTS: names}
    finally:
        del pipe._callback_tensor_inputs
        if before is not None:
            pipe._callback_tensor_inputs = before


def _noted(
    note: Callable[[tuple[Tensor, ...]], None], take_step: Any, *args: Any, **kwargs: Any
) -> Any:
    """A step of the scheduler; `note` gets what it returns first."""
    result = take_step(*args, **kwargs)
    note((result[0] if isinstance(result, tuple) else result.prev_sample,))
    return result


def _has_callback(pipe: Any) -> bool:
    """Whether the pipeline's call tells of each step, with its latents."""
    return has_callback(pipe) and "latents" in getattr(pipe, "_callback_tensor_inputs", ())
