"""What the tests of served models share: recorded run-time names, diffusers' Linears of the same
small configs, recipes over them.

`data/served_names.json` was recorded by building the consumers' own classes on the meta device,
from vLLM-Omni 0.30.0 and SGLang 0.5.23 as published on PyPI and ComfyUI 0.3.64, with stand-ins for
their heavy imports and Linear classes that write down (name handed to the quantization config, K,
N). Rows of the first two are the Linears that are built with a quantization config on one GPU;
ComfyUI's are all.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch

from sensitivity.consumers.lists import ModelTree
from sensitivity.recipes.recipe import Recipe

from support.paths import DATA
from support.recipes import make_recipe

RECORDED: dict[str, Any] = json.loads((DATA / "served_names.json").read_text())
CONFIGS: dict[str, dict[str, Any]] = {
    model["class"]: model["config"] for model in reversed(RECORDED["vllm-omni"]["models"])
}
"""{class: its small config}; Wan's is that of text to video."""


def models_of(consumer: str) -> list[Any]:
    """(class, config, rows) of each recorded model."""
    return [
        (model["class"], model["config"], model["linears"])
        for model in RECORDED[consumer]["models"]
    ]


def linears_of(kind: str, **config: Any) -> dict[str, tuple[int, int]]:
    """{FQN: (K, N)} of a diffusers class on the meta device; its small config with changes."""
    return dict(_linears_of(kind, json.dumps({**CONFIGS[kind], **config})))


@lru_cache
def _linears_of(kind: str, config: str) -> dict[str, tuple[int, int]]:
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, kind)(**json.loads(config))
    return {
        fqn: (module.in_features, module.out_features)
        for fqn, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def tree(kind: str, fqns: Iterable[str]) -> ModelTree:
    """The tree of one denoiser."""
    return ModelTree(fqns=tuple(fqns), classes={"transformer": kind})


def recipe_of(kind: str, formats: Mapping[str, str]) -> Recipe:
    """A recipe of one denoiser with these formats."""
    return with_formats(make_recipe(formats, [], component_class=kind), formats)


def two_wans(formats: Mapping[str, str]) -> Recipe:
    """A recipe of Wan 2.2's two denoisers; names begin with theirs."""
    components = dict.fromkeys(("transformer", "transformer_2"), "WanTransformer3DModel")
    recipe = make_recipe(
        formats, [], component_class="WanTransformer3DModel", components=components
    )
    return with_formats(recipe, formats)


def with_formats(recipe: Recipe, formats: Mapping[str, str]) -> Recipe:
    """The recipe with other formats."""
    data = recipe.model_dump(mode="json")
    layers = {fqn: str(name) for fqn, name in formats.items()}
    return Recipe.from_mapping(
        {**data, "layers": layers, "skip": [fqn for fqn, name in layers.items() if name == "bf16"]}
    )


def groups(
    names: Mapping[str, str | None], shapes: Mapping[str, tuple[int, int]]
) -> list[list[Any]]:
    """Sorted [run-time name, K, N]: Linears of one name lie side by side along N."""
    widths: dict[tuple[str, int], int] = {}
    for fqn, name in names.items():
        if name is not None:
            k, n = shapes[fqn]
            widths[name, k] = widths.get((name, k), 0) + n
    return sorted([name, k, n] for (name, k), n in widths.items())
