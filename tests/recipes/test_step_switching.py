"""A pipeline that a recipe was applied to runs its step policy, natively and emulated: each step is
that of another module, which is called in its place.
"""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.formats.registry import get_format
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.step_switching import precision_by_step, step_callback

from support.two_blocks import TwoBlockNet, two_block_recipe

POLICY = {"first_steps": 1, "last_steps": 2, "steps": 5}
LAYERS = {f"blocks.{i}.{name}": "int8" for i in range(2) for name in ("up", "down")}


class ToyPipeline:
    """diffusers' loop around the two-block net: x becomes x - net(x) / n, n times."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.transformer: Any = TwoBlockNet().bfloat16().eval().requires_grad_(False)

    def progress_bar(self, total: int) -> int:
        return total

    @torch.no_grad()
    def __call__(
        self,
        steps: int,
        fails_at: int | None = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),  # noqa: ARG002
    ) -> Tensor:
        x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
        self._num_timesteps = steps
        self.progress_bar(total=steps)
        for step in range(steps):
            if step == fails_at:
                raise ValueError("no more")
            x = x - self.transformer(x) / steps
            if callback_on_step_end is not None:
                x = callback_on_step_end(self, step, 0, {"latents": x}).pop("latents", x)
        return x


@pytest.fixture(autouse=True)
def int8_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU pass as a device that has int8: torchao multiplies in it there."""
    monkeypatch.setattr(type(get_format("int8")), "native_refusal", lambda _self, _device: None)


def recipe_with(mode: EdgeMode | None) -> Recipe:
    """Blocks in int8, with a policy where there is a mode."""
    policy = None if mode is None else POLICY | {"mode": mode}
    layers = LAYERS | {"head": "bf16"}
    return two_block_recipe(layers=layers, patterns=[], step_policy=policy)


def applied(recipe: Recipe, *, emulate: bool = False) -> ToyPipeline:
    pipe = ToyPipeline()
    recipe.apply(pipe, emulate=emulate)
    return pipe


class A16(nn.Module):
    """A Linear with another weight."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def by_hand(mode: EdgeMode, steps: int) -> Tensor:
    """The same run with two modules, by the native kernels: the callback puts the one that the
    next step needs in the pipeline's place.
    """
    pipe, edge = applied(recipe_with(None)), ToyPipeline().transformer
    coarse = pipe.transformer
    if mode is EdgeMode.A16:
        for fqn in LAYERS:
            linear = coarse.get_submodule(fqn)
            edge.set_submodule(fqn, A16(linear.weight.dequantize(), linear.bias))

    def put(step: int) -> None:
        pipe.transformer = coarse if 1 <= step < steps - 2 else edge

    def after(_pipe: Any, step: int, _time: Any, _found: Any) -> dict[str, Any]:
        put(step + 1)
        return {}

    put(0)
    return pipe(steps, callback_on_step_end=after)


@pytest.mark.parametrize("mode", list(EdgeMode))
def test_steps_are_those_of_two_modules(mode: EdgeMode) -> None:
    """To the bit, for runs of any number of steps, by the context and by the callback; between
    calls and afterwards the pipeline is quantized, and the denoiser the same object.
    """
    recipe = recipe_with(mode)
    pipe = applied(recipe)
    denoiser, names, always = pipe.transformer, list(pipe.transformer.state_dict()), pipe(5)
    with precision_by_step(pipe, recipe) as switching:
        for steps in (5, 5, 8, 2):
            assert torch.equal(pipe(steps), by_hand(mode, steps))
            assert not switching.at_edge
    assert not torch.equal(by_hand(mode, 5), always)
    assert torch.equal(pipe(5), always)
    assert pipe.transformer is denoiser
    assert list(denoiser.state_dict()) == names
    assert type(pipe) is ToyPipeline
    callback = step_callback(pipe, recipe)
    for steps in (5, 8):
        found = pipe(steps, callback_on_step_end=callback)
        assert torch.equal(found, by_hand(mode, steps))


def test_a_broken_call_leaves_the_pipeline_quantized() -> None:
    """The next one begins at step 0, and by the callback where a new one is made."""
    recipe = recipe_with(EdgeMode.BF16)
    pipe = applied(recipe)
    with precision_by_step(pipe, recipe) as switching:
        for fails_at in (0, 4):
            with pytest.raises(ValueError, match="no more"):
                pipe(5, fails_at=fails_at)
            assert not switching.at_edge
        assert torch.equal(pipe(5), by_hand(EdgeMode.BF16, 5))
    with pytest.raises(ValueError, match="no more"):
        pipe(5, fails_at=4, callback_on_step_end=step_callback(pipe, recipe))
    found = pipe(5, callback_on_step_end=step_callback(pipe, recipe))
    assert torch.equal(found, by_hand(EdgeMode.BF16, 5))


@pytest.mark.parametrize("mode", list(EdgeMode))
def test_compiled_blocks_compile_once_for_each_precision(mode: EdgeMode) -> None:
    """Pictures of compiled blocks are those of eager ones, and after one call nothing compiles,
    whatever the number of steps.
    """
    recipe = recipe_with(mode)
    pipe = applied(recipe)
    with precision_by_step(pipe, recipe):
        eager = {steps: pipe(steps) for steps in (5, 7)}
        pipe.transformer.compile(fullgraph=True, backend="eager")
        pipe(5)
        with torch.compiler.set_stance("fail_on_recompile"):
            for steps in (5, 7):
                assert torch.equal(pipe(steps), eager[steps])
    torch._dynamo.reset()


def test_an_emulated_pipeline_has_steps_too(caplog: pytest.LogCaptureFixture) -> None:
    """With every step an edge step in bf16 it is the pipeline that nothing was applied to; the
    proof of the recipe waits for a quantized step.
    """
    recipe = recipe_with(EdgeMode.BF16)
    pipe, plain = ToyPipeline(), ToyPipeline()(3)
    with caplog.at_level(logging.WARNING):
        report = recipe.apply(pipe, emulate=True)
    assert "precision_by_step" in caplog.text
    with precision_by_step(pipe, recipe) as switching:
        assert torch.equal(pipe(3), plain)
        assert report.proof.pending == report.proof.linears
        mixed = pipe(5)
        assert set(report.proof.ran) == set(LAYERS)
        assert not switching.at_edge
    always = pipe(5)
    assert not torch.equal(mixed, always)
    assert not torch.equal(mixed, ToyPipeline()(5))


@pytest.mark.parametrize("emulate", [False, True])
def test_without_a_policy_nothing_changes(emulate: bool) -> None:
    """Nor where no bf16 weights are kept, nor where the recipe was not applied at all."""
    recipe = recipe_with(None)
    for pipe in (applied(recipe, emulate=emulate), ToyPipeline()):
        always = pipe(5)
        with precision_by_step(pipe, recipe) as switching:
            assert type(pipe) is ToyPipeline
            assert torch.equal(pipe(5), always)
            assert not switching.at_edge
        callback = step_callback(pipe, recipe)
        assert torch.equal(pipe(5, callback_on_step_end=callback), always)


def test_weights_that_were_saved_quantized_have_edge_steps_in_a16_alone() -> None:
    """As a pipeline that is loaded quantized: torchao's weights, and nothing beside."""
    bf16, a16 = recipe_with(EdgeMode.BF16), recipe_with(EdgeMode.A16)
    saved, pipe = applied(a16).transformer.state_dict(), ToyPipeline()
    pipe.transformer.load_state_dict(saved, assign=True)
    with precision_by_step(pipe, a16):
        assert torch.equal(pipe(5), by_hand(EdgeMode.A16, 5))
    refused = r"no bf16 weights beside .*load the model in bf16.*or choose a16 as its `mode`"
    with pytest.raises(RecipeError, match=refused), precision_by_step(pipe, bf16):
        pass


def test_what_does_not_fit_is_refused() -> None:
    """A pipeline without the denoiser or its Linears, one that nothing was applied to, and one
    whose bf16 weights were not kept.
    """
    bf16, a16 = recipe_with(EdgeMode.BF16), recipe_with(EdgeMode.A16)
    pipe = applied(a16)
    with pytest.raises(RecipeError, match=r"no bf16 weights beside .*load the model in bf16"):
        step_callback(pipe, bf16)
    with pytest.raises(RecipeError, match="that are not quantized: 4"):
        step_callback(ToyPipeline(), a16)
    other = ToyPipeline()
    other.transformer = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RecipeMismatchError, match="without Linears that the recipe"):
        step_callback(other, a16)
    with pytest.raises(RecipeMismatchError, match="without a module named"):
        step_callback(object(), a16)
    emulated = applied(bf16, emulate=True)
    with precision_by_step(emulated, a16):  # its weights are there in every precision
        emulated(5)
