"""A pipeline with two denoisers that take turns, as Wan 2.2, is searched as one model and has one
recipe.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PipelineQuantizationConfig, WanPipeline
from torch import nn

from sensitivity.consumers.exporters import get_exporter, to_diffusers, to_torchao
from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import read_list
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.price import PriceRequest, price
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.verify import verify_recipe

from support.two_denoisers import (
    LINEARS,
    MXFP8,
    NAMES,
    linears,
    save_two_denoisers,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def spec(folder: Path) -> StudySpec:
    return save_two_denoisers(folder)


@pytest.fixture
def evaluator(spec: StudySpec, folder: Path) -> Iterator[Evaluator]:
    made = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=folder / "references")
    yield made
    made.close()


@pytest.fixture(scope="module")
def outcome(spec: StudySpec, folder: Path) -> SearchOutcome:
    """A search of three trials; the fastest skip-list is chosen."""
    request = SearchRequest(
        formats=(MXFP8,),
        budget=3,
        max_lpips=5.0,
        storage=folder / "s.db",
        cache_folder=folder / "references",
        calibrated=False,
    )
    return find_recipe(spec, request)


@pytest.fixture(scope="module")
def recipe(outcome: SearchOutcome) -> Recipe:
    assert outcome.recipe is not None
    return outcome.recipe


def quantized(module: nn.Module) -> set[str]:
    """Linears whose weight is no plain tensor."""
    return {
        fqn
        for fqn in linears(module)
        if type(module.get_submodule(fqn).get_parameter("weight").data) is not torch.Tensor
    }


def test_a_search_gives_one_recipe_of_both(
    outcome: SearchOutcome, recipe: Recipe, folder: Path
) -> None:
    """Three trials, a recipe that names all Linears of both and quantizes some of each, which
    survives its file.
    """
    assert outcome.result.tried == 3
    assert list(recipe.model.classes.items()) == [(name, "WanTransformer3DModel") for name in NAMES]
    assert (recipe.model.component, recipe.model.component_class) == (
        "transformer",
        "WanTransformer3DModel",
    )
    own = recipe.layers_by_component
    assert {name: len(layers) for name, layers in own.items()} == dict.fromkeys(NAMES, LINEARS)
    assert all(MXFP8 in layers.values() for layers in own.values())
    assert set(recipe.block_patterns) == {"blocks"}
    assert recipe.memory.quantized_bytes < recipe.memory.bf16_bytes
    assert load_recipe(recipe.save(folder / "r.json")) == recipe


def test_an_applied_recipe_gives_the_scored_clips(
    recipe: Recipe, evaluator: Evaluator, spec: StudySpec
) -> None:
    """By emulation, on a pipeline that plain diffusers loaded, the frames are the evaluator's, and
    `verify` finds the recipe's score.
    """
    scored = evaluator.generate(recipe.layers, "held_out")
    plain = WanPipeline.from_pretrained(spec.model.path, dtype=torch.bfloat16)
    plain.set_progress_bar_config(disable=True)
    report = recipe.apply(plain, emulate=True, allow_random_weights=True)
    assert report.counts[MXFP8] == len(recipe.layers) - len(recipe.skip)
    texts, seeds = evaluator.prompts("held_out")
    frames = plain(
        list(texts),
        **spec.settings,
        output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).frames
    assert torch.equal(frames.to(scored.pictures), scored.pictures)
    references = evaluator.references("held_out").pictures
    assert not torch.equal(frames.to(references), references)
    assert verify_recipe(recipe, spec, device="cpu").per_prompt == tuple(
        recipe.fidelity.lpips.per_prompt
    )


@pytest.mark.parametrize("form", ["object", "python", "json"])
def test_diffusers_loads_both_quantized(recipe: Recipe, spec: StudySpec, form: str) -> None:
    """`from_pretrained` with the exported config quantizes each transformer's own Linears."""
    import diffusers

    if form == "object":
        config = to_diffusers(recipe, allow_random_weights=True)
    elif form == "json":
        mapping = json.loads(
            DiffusersExporter(form="json").export(recipe, allow_random_weights=True)
        )
        config = PipelineQuantizationConfig(
            quant_mapping={
                name: diffusers.TorchAoConfig.from_dict(data) for name, data in mapping.items()
            }
        )
    else:
        namespace: dict[str, Any] = {}
        exec(
            compile(
                DiffusersExporter().export(recipe, allow_random_weights=True), "exported.py", "exec"
            ),
            namespace,
        )
        config = namespace["quantization_config"]()
    pipe = WanPipeline.from_pretrained(
        spec.model.path,
        quantization_config=config,
        dtype=torch.bfloat16,
        vae=None,
        text_encoder=None,
        tokenizer=None,
    )
    assert_is(recipe, pipe)


@pytest.mark.parametrize("via_json", [False, True])
def test_torchao_quantizes_each_with_its_own_config(
    recipe: Recipe, spec: StudySpec, via_json: bool
) -> None:
    """One FqnToConfig a component, each for `quantize_` on that transformer."""
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    if via_json:
        configs = {
            name: config_from_dict(data)
            for name, data in json.loads(
                get_exporter("torchao").export(recipe, allow_random_weights=True)
            ).items()
        }
    else:
        configs = to_torchao(recipe, allow_random_weights=True)
    pipe = WanPipeline.from_pretrained(
        spec.model.path, dtype=torch.bfloat16, vae=None, text_encoder=None, tokenizer=None
    )
    for name, config in configs.items():
        quantize_(getattr(pipe, name), config, filter_fn=None)
    assert_is(recipe, pipe)


def assert_is(recipe: Recipe, pipe: Any) -> None:
    """Each transformer has the recipe's Linears quantized, and no others."""
    for name, layers in recipe.layers_by_component.items():
        assert (
            quantized(getattr(pipe, name))
            == {fqn for fqn, fmt in layers.items() if fmt is MXFP8}
            != set()
        )


@pytest.mark.parametrize("globs", [False, True])
def test_a_skip_list_has_whole_names(
    recipe: Recipe, spec: StudySpec, globs: bool, tmp_path: Path
) -> None:
    """Entries begin with the component, a comment says so, and `latency --skip` reads the recipe
    back.
    """
    text = SkipListExporter(form="globs" if globs else "fqns").export(
        recipe, allow_random_weights=True
    )
    assert "# Names begin with their component's and a dot: transformer., transformer_2." in text
    if not globs:
        assert read_list(text) == recipe.skip
        assert "transformer_2.condition_embedder.time_embedder.linear_1" in recipe.skip
    path = tmp_path / "skip.txt"
    path.write_text(text)
    assert price(spec, PriceRequest(format=MXFP8, skip=path)).main.formats == recipe.layers


@pytest.mark.parametrize(
    "exporter",
    [
        SkipListExporter(),
        get_exporter("torchao"),
        DiffusersExporter(),
        DiffusersExporter(form="json"),
    ],
    ids=repr,
)
def test_exports_tell_the_denoisers_apart(exporter: Any) -> None:
    """Formats that differ between the two for one name inside them mean the recipe, and a Linear of
    neither is found.
    """
    layers = {
        "transformer.a": "nvfp4",
        "transformer.b": "bf16",
        "transformer_2.a": "bf16",
        "transformer_2.b": "nvfp4",
    }
    found = make_recipe(layers)
    assert exporter.verify(found, layers) == {fqn: FormatName(name) for fqn, name in layers.items()}
    with pytest.raises(RecipeError, match="a is not in the recipe"):
        exporter.verify(found, [*layers, "a"])


def make_recipe(layers: dict[str, str], **model: Any) -> Recipe:
    """A recipe of two denoisers, of which nothing but names matters."""
    lpips = {
        "mean": 0.1,
        "ci95": [0.1, 0.1],
        "net": "tiny",
        "noise_floor": None,
        "prompts": ["a"],
        "seeds": [1],
        "per_prompt": [0.1],
    }
    latency = {
        "bf16_s": 3.0,
        "quantized_s": 2.0,
        "speedup": 1.5,
        "source": "predicted",
        "target": "b200",
        "batch_size": 1,
        "compile_mode": None,
    }
    data = {
        "name": "toy",
        "layers": layers,
        "skip": [fqn for fqn in layers if layers[fqn] == "bf16"],
        "latency": latency,
        "fidelity": {"lpips": lpips},
        "memory": {"bf16_bytes": 2, "quantized_bytes": 1, "source": "predicted"},
        "block_patterns": {},
        "environment": {},
        "search": {"study": "toy", "budget": 1, "trials": 1, "sampler": "sweep", "seed": None},
        "model": (
            {
                "id": "toy",
                "revision": None,
                "pipeline_class": "WanPipeline",
                "component": "transformer",
                "component_class": "WanTransformer3DModel",
                "components": dict.fromkeys(NAMES, "WanTransformer3DModel"),
                "weights": "pretrained",
            }
            | model
        ),
    }
    return Recipe.from_mapping(data)


@pytest.mark.parametrize(
    ("layers", "model", "message"),
    [
        (
            {"transformer.a": "bf16"},
            {},
            "and no layer of transformer_2; expected layers that begin with a component's name",
        ),
        (
            {
                "transformer.a": "bf16",
                "transformer_2.a": "bf16",
                "a": "bf16",
                "transformer_2b": "bf16",
            },
            {},
            r"the layers 2 \(a, transformer_2b\)",
        ),
        (
            {"transformer.a": "bf16"},
            {"components": {"transformer": "WanTransformer3DModel"}},
            "expected two or more",
        ),
        (
            {"b.a": "bf16", "c.a": "bf16"},
            {"components": {"b": "B", "c": "C"}},
            r"transformer \(WanTransformer3DModel\) first",
        ),
    ],
)
def test_recipes_whose_components_do_not_fit_are_refused(
    layers: dict[str, str], model: dict[str, Any], message: str
) -> None:
    """Layers of no component, components without layers, one component in a list, and another first
    one.
    """
    with pytest.raises(RecipeError, match=message):
        make_recipe(layers, **model)


def test_only_the_whole_pipeline_takes_it(recipe: Recipe, spec: StudySpec) -> None:
    """One transformer alone, a pipeline without the second, and one with another class are refused,
    and nothing is changed.
    """
    pipe = WanPipeline.from_pretrained(
        spec.model.path, dtype=torch.bfloat16, vae=None, text_encoder=None, tokenizer=None
    )
    apply: Callable[[object], object] = partial(
        recipe.apply, emulate=True, allow_random_weights=True
    )
    with pytest.raises(
        RecipeMismatchError,
        match=(
            r"WanTransformer3DModel without a module named 'transformer' or 'transformer_2'.*all of"
            r" transformer, trans"
        ),
    ):
        apply(pipe.transformer)
    second, pipe.transformer_2 = pipe.transformer_2, None
    with pytest.raises(
        RecipeMismatchError,
        match=(
            "without a module named 'transformer_2'; expected a pipeline that has all of"
            " transformer, transformer_2"
        ),
    ):
        apply(pipe)
    pipe.transformer_2 = nn.Linear(2, 2)
    with pytest.raises(
        RecipeMismatchError,
        match=r"found a Linear; expected WanTransformer3DModel, which the recipe",
    ):
        apply(pipe)
    second.proj_out = nn.Identity()
    pipe.transformer_2 = second
    with pytest.raises(
        RecipeMismatchError, match=r"missing in the model 1 \(transformer_2.proj_out\)"
    ):
        apply(pipe)
    assert {type(pipe.transformer.get_submodule(fqn)) for fqn in linears(pipe.transformer)} == {
        nn.Linear
    }
