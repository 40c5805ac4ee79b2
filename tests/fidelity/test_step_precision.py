"""Pictures of a step policy are those of plain diffusers whose denoiser is exchanged between steps
for another module.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import PipelineError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.step_precision import window_of
from sensitivity.formats.registry import get_format
from sensitivity.formats.switch import Switch
from sensitivity.models.compiled_regions import CompiledRegions, compiled_graphs
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.spec.loading import load_spec

from support.media import changed
from support.two_denoisers import NAMES, save_two_denoisers

STEPS = 3
A16, BF16 = EdgeMode.A16, EdgeMode.BF16
SETTINGS = {"num_inference_steps": STEPS, "height": 32, "width": 32}
ENDS = {"first_steps": 1, "last_steps": 1}
Make = Callable[..., Evaluator]


class A16Linear(nn.Module):
    """The quantized weight of a Linear and activations as they are."""

    def __init__(self, linear: nn.Linear, name: FormatName) -> None:
        super().__init__()
        self.format, self.bias = get_format(name), linear.bias
        self.weight = self.format.quantize_weight(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return self.format.linear_a16(rows, self.weight, self.bias).view(*x.shape[:-1], -1)


@pytest.fixture(scope="module")
def loaded(tiny_study: Path) -> LoadedPipeline:
    """The random FluxPipeline at three steps of 32 x 32 pixels, with one prompt to search."""
    spec = load_spec(tiny_study)
    prompts = {"search": spec.prompts.search[:1]}
    spec = changed(spec, settings=SETTINGS, prompts=prompts)
    return load_pipeline(spec, device="cpu")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes an Evaluator, and closes it."""
    made: list[Evaluator] = []

    def build(loaded: LoadedPipeline, **options: Any) -> Evaluator:
        made.append(Evaluator(loaded, cache_folder=tmp_path, **options))
        return made[-1]

    yield build
    for evaluator in made:
        evaluator.close()


def some(evaluator: Evaluator) -> dict[str, FormatName]:
    """The Linears of the blocks, in two formats."""
    fqns = [fqn for fqn in evaluator.switch.linears if "blocks." in fqn]
    return {fqn: (FormatName.NVFP4, FormatName.FP8)[i % 2] for i, fqn in enumerate(fqns)}


def by_hand(evaluator: Evaluator, quantizes: Callable[[int], bool], edge: nn.Module) -> Tensor:
    """The pictures of plain diffusers whose callback exchanges the denoiser: a quantized one where
    a step quantizes, else `edge`.
    """
    loaded = evaluator.loaded
    coarse = copy.deepcopy(loaded.denoiser)
    pipe, own = copy.copy(loaded.pipe), loaded.denoiser

    def put(step: int) -> None:
        vars(pipe)["transformer"] = coarse if quantizes(step) else edge

    def after(_pipe: Any, step: int, _time: Any, _found: dict[str, Any]) -> dict[str, Any]:
        put(step + 1)
        return {}

    texts, seeds = evaluator.prompts("search")
    with Switch(coarse) as switch, torch.no_grad():
        switch.set(some(evaluator))
        put(0)
        images = pipe(
            prompt=list(texts),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            callback_on_step_end=after,
            output_type="pt",
            **loaded.spec.settings,
        ).images
    assert loaded.pipe.transformer is own
    return cast(Tensor, images.float() * 2 - 1)


def edge_module(evaluator: Evaluator, mode: EdgeMode) -> nn.Module:
    """What edge steps run: the bf16 denoiser, or one of `A16Linear`s."""
    twin = copy.deepcopy(evaluator.loaded.denoiser)
    if mode is A16:
        for fqn, name in some(evaluator).items():
            twin.set_submodule(fqn, A16Linear(cast(nn.Linear, twin.get_submodule(fqn)), name))
    return twin


@pytest.mark.parametrize("mode", [BF16, A16])
def test_edge_steps_are_those_of_another_module(
    loaded: LoadedPipeline, make: Make, mode: EdgeMode
) -> None:
    """First and last step to the bit, call after call; the plain policy has none of them."""
    evaluator = make(loaded)
    formats = some(evaluator)
    assignment = Assignment(formats, StepPolicy(**ENDS, mode=mode))
    found = evaluator.generate_pictures(assignment, "search")
    always = evaluator.generate_pictures(Assignment(formats, PLAIN), "search")
    edge = edge_module(evaluator, mode)
    assert torch.equal(found, by_hand(evaluator, lambda step: 0 < step < STEPS - 1, edge))
    assert not torch.equal(found, always)
    assert torch.equal(evaluator.generate_pictures(assignment, "search"), found)


def test_with_edge_steps_alone_pictures_are_those_of_bf16(
    loaded: LoadedPipeline, make: Make
) -> None:
    """Also where there are more of them than steps; that no Linear ran quantized is no error."""
    evaluator = make(loaded)
    plain = evaluator.generate_pictures({}, "search")
    for first, last in ((STEPS, 0), (1, 9)):
        policy = StepPolicy(first_steps=first, last_steps=last)
        found = evaluator.generate_pictures(Assignment(some(evaluator), policy), "search")
        assert torch.equal(found, plain)
    assert evaluator.switch.edge_mode is None


def test_compiled_blocks_change_precision_without_compiling(
    loaded: LoadedPipeline, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs of bf16's pictures serve a policy, whose pictures are those of eager blocks."""
    evaluator = make(loaded, compiled=True)
    small = ["FeedForward"]  # little to trace, and its Linears are quantized
    monkeypatch.setattr(loaded.denoiser, "_repeated_blocks", small)
    evaluator.blocks._regions = CompiledRegions(loaded.denoiser, backend="eager")
    evaluator.generate_pictures({}, "search")
    graphs = compiled_graphs()
    policies = [StepPolicy(**ENDS, mode=mode) for mode in EdgeMode]
    assignments = [Assignment(some(evaluator), policy) for policy in policies]
    found = [evaluator.generate_pictures(each, "search") for each in assignments]
    assert compiled_graphs() == graphs > 0
    evaluator.blocks.on = False
    for pictures, each in zip(found, assignments, strict=True):
        assert torch.equal(pictures, evaluator.generate_pictures(each, "search"))


def test_an_error_ends_the_policy(loaded: LoadedPipeline, make: Make) -> None:
    """The pipeline is what it was, and the next pictures are right."""
    evaluator = make(loaded)
    kind, assignment = type(loaded.pipe), Assignment(some(evaluator), StepPolicy(**ENDS))
    found = evaluator.generate_pictures(assignment, "search")

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    hook = loaded.denoiser.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        evaluator.generate(assignment, "search")
    hook.remove()
    assert type(loaded.pipe) is kind
    assert evaluator.switch.edge_mode is None
    assert torch.equal(evaluator.generate_pictures(assignment, "search"), found)


def test_steps_that_cannot_be_counted_are_refused(
    loaded: LoadedPipeline, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a policy alone; without one nobody counts."""
    evaluator = make(loaded)
    monkeypatch.setattr(type(loaded.pipe), "progress_bar", None)
    with pytest.raises(PipelineError, match="no `progress_bar`"):
        evaluator.generate(Assignment(some(evaluator), StepPolicy(**ENDS)), "search")


def test_a_score_is_that_of_the_policys_pictures(loaded: LoadedPipeline, make: Make) -> None:
    """Steps in bf16 bring it nearer to bf16's pictures, and the key of the scores is the same."""
    evaluator = make(loaded)
    key, formats = evaluator.evaluation_key("search"), some(evaluator)
    policy = StepPolicy(first_steps=STEPS - 1)
    scores = [evaluator.score(x, "search") for x in (formats, Assignment(formats, policy))]
    assert 0 < scores[1].mean < scores[0].mean
    assert evaluator.evaluation_key("search") == key


def test_steps_of_a_run_are_counted_whichever_denoiser_they_call(
    tmp_path: Path, make: Make
) -> None:
    """Of two denoisers that take turns, the first runs in bf16 alone if the policy has its steps;
    a step with guidance calls one twice.
    """
    evaluator = make(load_pipeline(save_two_denoisers(tmp_path), device="cpu"))
    switch, names = evaluator.switch, FormatName.MXFP8
    fit = [fqn for fqn in switch.linears if not switch.refusals({fqn: names})]
    both = dict.fromkeys(fit, names)
    second = {fqn: name for fqn, name in both.items() if fqn.startswith(f"{NAMES[1]}.")}
    found = evaluator.generate_pictures(Assignment(both, StepPolicy(first_steps=2)), "search")
    assert torch.equal(found, evaluator.generate_pictures(second, "search"))
    assert 0 < len(second) < len(both)


def test_a_window_of_steps_is_quantized(loaded: LoadedPipeline, make: Make) -> None:
    """From its start on and before its stop; all others run as at edge steps."""
    switch = make(loaded).switch
    for mode in EdgeMode:
        at = window_of(switch, 1, 3, mode=mode)
        seen = [(at(step), switch.edge_mode)[1] for step in range(4)]
        assert seen == [mode, None, None, mode]
    switch.edge_mode = None
