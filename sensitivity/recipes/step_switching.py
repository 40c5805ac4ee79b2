"""How does a diffusers pipeline run a recipe's step policy, with torchao's own Linears?

    recipe.apply(pipe)              # quantizes; keeps the bf16 weights that the policy needs
    with precision_by_step(pipe, recipe):
        pipe("a red ring", num_inference_steps=28)

Every call of the pipeline inside runs its edge steps at higher precision, for as many steps as the
call has. Between calls, and afterwards, the Linears are quantized. `step_callback` is the same for
who calls the pipeline with a `callback_on_step_end`, without a context. A recipe without a step
policy changes nothing in either.

Method. Before each step the quantized Linears get the weights that it needs
(`formats.edge_weights`), where they were quantized natively. Those of `apply(emulate=True)` keep
their bf16 weights, so they run either mode, and are told by their `Switch` (`Switch.edge_mode`). A
pipeline that was saved quantized and loaded again has no bf16 weights: edge steps in a16 run, those
in bf16 are refused. Which step comes is seen by `models.step_watch`.

**torch.compile.** Compile as always, before or after; the denoiser is the same object. It compiles
what quantized and edge steps run, once each: the first call is the warm-up. Nothing compiles after
it. The graphs count against torch's recompile limit (8 of a block class): a recipe of n patterns of
blocks has up to n + 1 where edge steps run in bf16, and 2 n in a16; more need a higher
`torch._dynamo.config.recompile_limit`. A CUDA graph that is captured by hand holds the weights that
were there: capture one for each precision (`StepSwitching.at_edge`).

**Offloading.** Weights beside follow the quantized ones when a call begins. With CPU offloading
each switch moves weights; keep the denoiser on the GPU.

What it does not do: quantize (`Recipe.apply`); run a policy in another runtime (`consumers`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from sensitivity.core.format_name import quantized
from sensitivity.core.step_policy import StepPolicy
from sensitivity.core.words import counted
from sensitivity.errors import FormatError, RecipeError, RecipeMismatchError
from sensitivity.formats.edge_weights import EdgeWeights
from sensitivity.formats.switchable_linear import AtEdge, SwitchableLinear
from sensitivity.models.denoisers import joined
from sensitivity.models.step_watch import noted_steps, watching_steps
from sensitivity.recipes.recipe import Recipe

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""diffusers' `callback_on_step_end`: (pipeline, step, timestep, tensors) -> tensors to replace."""


class StepSwitching:
    """Runs the quantized Linears of a pipeline quantized, or as its recipe's edge steps.

    Args:
        linears: {FQN: Linear} of those that are quantized, natively or by emulation.
        policy: Which steps run at higher precision.

    Raises:
        RecipeError: They are not quantized, or edge steps need bf16 weights that were not kept.
    """

    def __init__(self, linears: Mapping[str, nn.Linear], policy: StepPolicy) -> None:
        self.policy = policy
        emulated = {
            fqn: linear for fqn, linear in linears.items() if isinstance(linear, SwitchableLinear)
        }
        bare = [fqn for fqn, linear in emulated.items() if linear.active is None]
        if bare:
            raise RecipeError(
                f"found Linears of the recipe in bf16: {counted(bare)}; expected them in its"
                " formats: apply it first"
            )
        self._emulated: list[AtEdge] = list(
            {id(edge): edge for linear in emulated.values() if (edge := _edge_of(linear))}.values()
        )
        native = {fqn: linear for fqn, linear in linears.items() if fqn not in emulated}
        try:
            self._native = EdgeWeights(native, policy.mode) if native else None
        except FormatError as error:
            raise RecipeError(str(error)) from error

    @property
    def at_edge(self) -> bool:
        """Whether the Linears run as in edge steps now. It may be set."""
        native = self._native is not None and self._native.entered
        return native or any(edge.mode is not None for edge in self._emulated)

    @at_edge.setter
    def at_edge(self, at_edge: bool) -> None:
        for edge in self._emulated:
            edge.mode = self.policy.mode if at_edge else None
        if self._native is not None:
            (self._native.enter if at_edge else self._native.leave)()

    def before_step(self, step: int, steps: int) -> None:
        """Let the Linears run as in a step, from 0, of a run of `steps` steps."""
        if step == 0 and self._native is not None:
            self._native.refresh()
        self.at_edge = not self.policy.quantizes(step, steps=steps)

    def after_call(self) -> None:
        """Let them run quantized, as between calls of the pipeline."""
        self.at_edge = False


@contextmanager
def precision_by_step(pipe: Any, recipe: Recipe) -> Iterator[StepSwitching]:
    """Inside, calls of the pipeline run the recipe's edge steps at higher precision.

    Args:
        pipe: A diffusers pipeline that `recipe` was applied to, natively or emulated.
        recipe: What it says of steps; without a policy nothing is done.

    Raises:
        RecipeMismatchError: The pipeline has not the recipe's Linears.
        RecipeError: They are not quantized, or edge steps need bf16 weights that were not kept.
        PipelineError: Steps of the pipeline cannot be counted.
    """
    switching = _switching(pipe, recipe)
    if switching.policy.is_plain:
        yield switching
        return
    with watching_steps(pipe, switching.before_step, after_call=switching.after_call):
        yield switching


def step_callback(pipe: Any, recipe: Recipe, *, steps: int | None = None) -> Callback:
    """A `callback_on_step_end` that runs the recipe's edge steps at higher precision.

    It sets what the next step needs, and after the last step what the first one needs, so the same
    callback serves call after call. Where a call is broken off, make a new one. Between calls the
    Linears stay as the first step needs them; `precision_by_step` has neither limit.

    Args:
        pipe: A diffusers pipeline that `recipe` was applied to.
        recipe: What it says of steps; without a policy nothing is done.
        steps: The number of steps of each call. None reads it from the pipeline during the call;
            then a run of no more steps than `last_steps`, whose first step is a last one too,
            begins quantized.

    Raises:
        RecipeMismatchError: The pipeline has not the recipe's Linears.
        RecipeError: They are not quantized, or edge steps need bf16 weights that were not kept.
    """
    switching = _switching(pipe, recipe)
    policy = switching.policy
    if policy.is_plain:
        return lambda *_: {}
    unknown = policy.first_steps + policy.last_steps + 1
    switching.before_step(0, steps or unknown)

    def after_step(called: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        found = steps or noted_steps(called)
        switching.before_step((step + 1) % found, found)
        return {}

    return after_step


def _switching(pipe: Any, recipe: Recipe) -> StepSwitching:
    policy = recipe.assignment.policy
    return StepSwitching({} if policy.is_plain else _linears_of(pipe, recipe), policy)


def _linears_of(pipe: Any, recipe: Recipe) -> dict[str, nn.Linear]:
    """{FQN: Linear} of what the recipe quantizes."""
    parts = {name: getattr(pipe, name, None) for name in recipe.model.classes}
    modules = {
        name: getattr(part, "_orig_mod", part)  # of torch.compile
        for name, part in parts.items()
        if isinstance(part, nn.Module)
    }
    missing = [name for name in parts if name not in modules]
    if missing:
        raise RecipeMismatchError(
            f"found a {type(pipe).__name__} without a module named {counted(missing)}; expected the"
            f" pipeline that the recipe {recipe.name!r} was applied to: pass it"
        )
    denoiser = joined(modules)
    children = denoiser.named_modules()
    found = {fqn: child for fqn, child in children if isinstance(child, nn.Linear)}
    chosen = quantized(recipe.layers)
    lacking = [fqn for fqn in chosen if fqn not in found]
    if lacking:
        raise RecipeMismatchError(
            f"found a {type(pipe).__name__} without Linears that the recipe {recipe.name!r}"
            f" quantizes: {counted(lacking)}; expected the pipeline that it was applied to: pass it"
        )
    return {fqn: found[fqn] for fqn in chosen}


def _edge_of(linear: SwitchableLinear) -> AtEdge | None:
    return None if linear.active is None else linear.active.edge
