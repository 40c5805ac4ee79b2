"""How are pictures drawn whose precision changes from step to step? `drawing_by`.

    switch.set(assignment)
    with drawing_by(assignment.policy, pipe, switch):
        pipe("a red ring")              # its edge steps in bf16 or W x A16, the others quantized

Method. `models.step_watch` tells which step of the pipeline's loop comes next and how many there
are, and `Switch.edge_mode` makes it an edge step or none. So a policy holds for the number of steps
that a run really has. With several denoisers the steps of the run are counted, whichever of them a
step calls.

A policy without edge steps watches nothing: pictures are drawn as they always were.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.formats.switch import Switch
from sensitivity.models.step_watch import watching_steps


@contextmanager
def drawing_by(policy: StepPolicy, pipe: Any, switch: Switch) -> Iterator[None]:
    """Inside, calls of the pipeline run their edge steps as the policy says.

    Args:
        policy: which steps are edge steps.
        pipe: the pipeline that `switch` holds the Linears of.
        switch: has the formats; after each call its `edge_mode` is None.

    Raises:
        PipelineError: the policy has edge steps, and steps of the pipeline cannot be counted.
    """
    if policy.is_plain:
        yield
        return

    def before_step(step: int, steps: int) -> None:
        switch.edge_mode = None if policy.quantizes(step, steps=steps) else policy.mode

    def after_call() -> None:
        switch.edge_mode = None

    with watching_steps(pipe, before_step, after_call=after_call):
        yield


def window_of(
    switch: Switch, start: int, stop: int, *, mode: EdgeMode = EdgeMode.BF16
) -> Callable[[int], None]:
    """A function to call with each step before it runs: steps from `start` on and before `stop` run
    quantized, all others in `mode`. For callers who count the steps themselves.
    """

    def at(step: int) -> None:
        switch.edge_mode = None if start <= step < stop else mode

    return at
