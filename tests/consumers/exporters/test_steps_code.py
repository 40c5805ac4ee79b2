"""The Python that is exported for a step policy: which steps run in bf16, and in which weight."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sensitivity.consumers.exporters import get_exporter
from sensitivity.consumers.exporters._steps_code import steps_code, steps_constant, steps_in
from sensitivity.core.step_policy import PLAIN
from sensitivity.errors import RecipeError

from support.policies import with_steps
from support.recipes import flux_recipe, run_exported


class Codes(Tensor):
    """A weight of -1 and 1 that stands for a quantized one of 0.5 a code; products need no scale,
    so that they tell which weight was used.
    """

    @classmethod
    def of(cls, weight: Tensor) -> "Codes":
        return weight.sign().as_subclass(cls)

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor) * 0.5


def defined(**policy: Any) -> dict[str, Any]:
    """What the text of a recipe with this policy defines, its imports among it."""
    recipe = with_steps(flux_recipe(), **policy)
    return run_exported("import torch\n" + steps_constant(recipe) + steps_code(recipe))


def quantize(net: nn.Sequential) -> None:
    """Put codes in the place of the first Linear's weight."""
    linear = cast("nn.Linear", net[0])
    linear.weight = nn.Parameter(Codes.of(linear.weight.detach()), requires_grad=False)


def run(policy: Any, net: nn.Module, steps: int) -> list[float]:
    """What the net gives for ones in each step of a pipeline's loop."""
    pipeline, seen = SimpleNamespace(num_timesteps=steps), []
    for step in range(steps):
        seen.append(float(net(torch.ones(1, 4)).sum()))
        assert policy(pipeline, step, 0, {"latents": 1}) == {"latents": 1}
    return seen


def net_of(value: float) -> nn.Sequential:
    """One Linear of 4 x 4 with one value in its weight, and one that is left as it is."""
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False))
    for linear, own in zip(net, (value, 1.0), strict=True):
        nn.init.constant_(cast("nn.Linear", linear).weight, own)
    return net.requires_grad_(False)


@pytest.mark.parametrize(("mode", "edge"), [("a16", 0.5), ("bf16", 3.0)])
def test_edge_steps_use_the_other_weight(mode: str, edge: float) -> None:
    """The dequantized weight, or the one from before: a product of 16 values is 16 times the
    weight's value; other steps, and other calls afterwards, are quantized.
    """
    net = net_of(3.0)
    policy = defined(first_steps=2, last_steps=1, mode=mode)["StepPolicy"](net)
    quantize(net)
    with policy:
        for _ in range(2):  # a second call of the pipeline begins at the first step
            assert run(policy, net, 5) == [16 * edge] * 2 + [16.0] * 2 + [16 * edge]
    assert float(net(torch.ones(1, 4)).sum()) == 16.0
    assert "forward" not in vars(net[0])


def test_last_steps_alone_begin_quantized() -> None:
    """And a run without quantized steps between has none."""
    net = net_of(3.0)
    policy = defined(first_steps=0, last_steps=2)["StepPolicy"](net)
    quantize(net)
    with policy:
        assert run(policy, net, 4) == [16.0, 16.0, 8.0, 8.0]


def test_bf16_weights_are_kept_from_before() -> None:
    """Quantized weights have none, which is said at once."""
    net = net_of(3.0)
    quantize(net)
    with pytest.raises(RuntimeError, match="make StepPolicy before quantize_"):
        defined(mode="bf16")["StepPolicy"](net)


def test_the_code_is_part_of_the_proof() -> None:
    """Other code behind the constant, or none, is not taken for the policy."""
    recipe = with_steps(flux_recipe(), first_steps=2)
    text = get_exporter("torchao", form="filter-fn").export(recipe)
    assert steps_in(text, recipe) == recipe.assignment.policy
    assert steps_in(text, flux_recipe()) == PLAIN
    for other in (text + "\n", text.replace("STEP_POLICY = ", "OTHER = ")):
        with pytest.raises(RecipeError, match="found Python without STEP_POLICY"):
            steps_in(other, recipe)


def test_a_pipeline_that_is_loaded_quantized_keeps_no_bf16() -> None:
    """diffusers' Python refuses it, and names the exporter that keeps the weights."""
    exporter = get_exporter("diffusers")
    assert "StepPolicy(pipeline.transformer)" in exporter.export(with_steps(flux_recipe()))
    with pytest.raises(RecipeError, match="torchao, form filter-fn, keeps them"):
        exporter.export(with_steps(flux_recipe(), mode="bf16"))
