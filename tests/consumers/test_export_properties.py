"""Exports of random recipes for real models, read by a second implementation of each rule.

Every text means the recipe, or the export is refused and the message names Linears.
"""

import fnmatch
import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.consumers.exporters.torchao import TorchaoExporter
from sensitivity.core.fqns import block_of, role_of
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import check_pattern, expand, to_regex
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

from support.recipes import make_recipe

MODELS: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {"num_layers": 2, "num_single_layers": 11, "guidance_embeds": True},
    "Flux2Transformer2DModel": {"num_layers": 2, "num_single_layers": 3},
    "QwenImageTransformer2DModel": {"num_layers": 11},
    "LTX2VideoTransformer3DModel": {"num_layers": 2},
    "WanTransformer3DModel": {"num_layers": 11},
    "SD3Transformer2DModel": {"num_layers": 3},
    "PixArtTransformer2DModel": {"num_layers": 11},
    "SanaTransformer2DModel": {"num_layers": 2},
    "UNet2DConditionModel": {
        "block_out_channels": (32, 64, 128),
        "transformer_layers_per_block": (1, 2, 2),
        "cross_attention_dim": 64,
        "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "use_linear_projection": True,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}
"""SDXL's UNet and the default configs with few blocks, some more than ten, so that `blocks.1` and
`blocks.10` are there.
"""


@functools.cache
def model(name: str) -> nn.Module:
    with torch.device("meta"):
        built: nn.Module = getattr(diffusers, name)(**MODELS[name])
    return built


@functools.cache
def linears(name: str) -> tuple[str, ...]:
    return tuple(fqn for fqn, child in model(name).named_modules() if isinstance(child, nn.Linear))


@st.composite
def recipes(draw: st.DrawFn, name: str, formats: int) -> Recipe:
    """Skips single Linears, roles and blocks of one or two (equal) denoisers; up to `formats`
    quantized formats.
    """
    fqns = linears(name)
    several = draw(st.booleans())
    everything = (
        [f"{part}.{fqn}" for part in ("transformer", "transformer_2") for fqn in fqns]
        if several
        else list(fqns)
    )
    classes = dict.fromkeys(("transformer", "transformer_2"), name) if several else {}
    some = [draw(st.lists(st.sampled_from(everything), max_size=3)) for _ in range(3)]
    roles, blocks = {role_of(fqn) for fqn in some[0]}, {block_of(fqn) for fqn in some[1]}
    skip = {
        fqn for fqn in everything if role_of(fqn) in roles or (block_of(fqn) or None) in blocks
    } ^ set(some[2])
    used = draw(st.permutations(["mxfp8", "nvfp4", "fp8"]))[: draw(st.integers(1, formats))]
    return make_recipe(
        everything,
        [fqn for fqn in everything if fqn not in skip],
        *used,
        component_class=name,
        components=classes,
    )


def run(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(text, "exported.py", "exec"), namespace)
    return namespace


def entries(text: str) -> list[str]:
    return [line.partition("  #")[0] for line in text.splitlines() if not line.startswith("#")]


Said = dict[str, set[str]]
"""{format: the FQNs that get it}"""


def read_entries(text: str, recipe: Recipe, hits: Callable[[str, str], object]) -> Said:
    kept = {fqn for fqn in recipe.layers if any(hits(fqn, entry) for entry in entries(text))}
    other = next((fmt.value for fmt in recipe.layers.values() if fmt != "bf16"), "none")
    return {other: set(recipe.layers) - kept}


def read_json(text: str, recipe: Recipe) -> Said:
    """Keys are whole names, with a config as torchao writes it."""
    data, found = json.loads(text), Said()
    types = {
        "MXDynamicActivationMXWeightConfig": "mxfp8",
        "NVFP4DynamicActivationNVFP4WeightConfig": "nvfp4",
        "Float8DynamicActivationFloat8WeightConfig": "fp8",
    }
    for component in recipe.model.classes:
        own = data.get(component, data)
        own = own["quant_type"]["default"] if "quant_type" in own else own
        for fqn, config in own["_data"]["fqn_to_config"].items():
            if config is not None:
                found.setdefault(types[config["_type"]], set()).add(full(recipe, component, fqn))
    return found


def read_filters(text: str, recipe: Recipe) -> Said:
    """Every filter is asked about every module of the real model."""
    found, exported = Said(), run(text)
    pairs = [(component, name) for component, own in exported["LAYERS"].items() for name in own]
    for component, name in pairs:
        names = [f"filter_fn{a}{b}" for a in ("", f"_{component}") for b in ("", f"_{name}")]
        (function,) = [exported[key] for key in names if key in exported]
        chosen = {
            fqn
            for fqn, child in model(recipe.model.component_class).named_modules()
            if function(child, fqn)
        }
        found.setdefault(name, set()).update(full(recipe, component, fqn) for fqn in chosen)
    return found


def read_config(text: str, recipe: Recipe) -> Said:
    """The exported function's own configs, under the two lines of diffusers' quantizer."""
    found, config = Said(), run(text)["quantization_config"]()
    types = {"MX": "mxfp8", "NV": "nvfp4", "Fl": "fp8"}
    for component, own in (config.quant_mapping if config else {}).items():
        keys = getattr(own.quant_type, "fqn_to_config", None)
        for fqn in linears(recipe.model.component_class):
            param = f"{fqn}.weight"
            kept = any(
                (key + "." in param) or (key == param) for key in own.modules_to_not_convert or []
            )
            applied = None if kept else own.quant_type if keys is None else fitting(keys, fqn)
            if applied is not None:
                found.setdefault(types[type(applied).__name__[:2]], set()).add(
                    full(recipe, component, fqn)
                )
    return found


def fitting(keys: Mapping[str, Any], fqn: str) -> Any:
    """The config of the exact key, else of the one that fits after re:."""
    if fqn in keys:
        return keys[fqn]
    found = [keys[key] for key in keys if key[:3] == "re:" and re.fullmatch(key[3:], fqn)]
    assert len(found) <= 1
    return found[0] if found else None


def full(recipe: Recipe, component: str, fqn: str) -> str:
    return f"{component}.{fqn}" if recipe.model.components else fqn


FORMS: Mapping[Any, Callable[[str, Recipe], Said]] = {
    SkipListExporter(): lambda text, recipe: read_entries(text, recipe, str.__eq__),
    SkipListExporter(form="globs"): lambda text, recipe: read_entries(
        text, recipe, fnmatch.fnmatchcase
    ),
    SkipListExporter(form="regex"): lambda text, recipe: read_entries(
        text, recipe, lambda fqn, entry: re.match(entry, fqn)
    ),
    TorchaoExporter(): read_json,
    TorchaoExporter(form="filter-fn"): read_filters,
    DiffusersExporter(): read_config,
    DiffusersExporter(form="json"): read_json,
    DiffusersExporter(form="modules-to-not-convert"): read_config,
}


def test_every_form_is_tested() -> None:
    """No form of these exporters is without a second reading, but the config of a checkpoint, whose
    names are read in `test_step_policies`.
    """
    assert {(type(e), e.form) for e in FORMS} == {
        (cls, form)
        for cls in (SkipListExporter, TorchaoExporter, DiffusersExporter)
        for form in cls.forms
        if (cls, form) != (DiffusersExporter, "modelopt")
    }


@pytest.mark.parametrize("name", list(MODELS))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_exports_mean_the_recipe_or_are_refused(name: str, data: st.DataObject) -> None:
    """On random skip sets over the real module tree each form says exactly the recipe; what
    diffusers keeps in fp32 is refused by layer, the nearest recipe is not.
    """
    kept = getattr(diffusers, name)._keep_in_fp32_modules or ()
    for exporter, read in FORMS.items():
        recipe = data.draw(recipes(name, min(3, exporter.max_formats)))
        impossible = [
            fqn
            for fqn, fmt in recipe.layers.items()
            if fmt != "bf16" and any(f"{part}." in f"{fqn}." for part in kept)
        ]
        if isinstance(exporter, DiffusersExporter) and impossible:
            with pytest.raises(RecipeError, match=re.escape(impossible[0])):
                exporter.export(recipe)
            layers = exporter.nearest(recipe)
            assert {fqn for fqn in layers if layers[fqn] != recipe.layers[fqn]} == set(impossible)
            recipe = Recipe.from_mapping(
                recipe.model_dump(mode="json")
                | {
                    "layers": layers,
                    "skip": [f for f in layers if layers[f] == "bf16"],
                }
            )
        text = exporter.export(recipe)
        expected: Said = {}
        for fqn, fmt in recipe.layers.items():
            if fmt != "bf16":
                expected.setdefault(fmt.value, set()).add(fqn)
        assert {fmt: fqns for fmt, fqns in read(text, recipe).items() if fqns} == expected


@pytest.mark.parametrize("name", list(MODELS))
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_globs_and_their_expressions_hit_the_same(name: str, data: st.DataObject) -> None:
    """Compressed globs hit exactly the selection, each as its regular expression the same names,
    and none is dead.
    """
    fqns = linears(name)
    chosen = set(data.draw(st.lists(st.sampled_from(fqns))))
    roles = {role_of(fqn) for fqn in data.draw(st.lists(st.sampled_from(fqns), max_size=2))}
    chosen |= {fqn for fqn in fqns if role_of(fqn) in roles}
    patterns = [entry.pattern for entry in compress(chosen, fqns)]
    assert expand(patterns, fqns) == (chosen, ())
    for pattern in patterns:
        assert [fqn for fqn in fqns if re.match(to_regex(pattern), fqn)] == [
            fqn for fqn in fqns if fnmatch.fnmatchcase(fqn, pattern)
        ]


@given(
    st.text(alphabet="ab1.-*?", min_size=1, max_size=6),
    st.sampled_from(["", "[!0-3]", "[a.]", "[-1]", "[b-d]"]),
    st.text(alphabet="ab1.-", max_size=5),
)
def test_a_regular_expression_of_any_glob(pattern: str, group: str, name: str) -> None:
    """`to_regex` agrees with the glob on any name, whatever signs they contain."""
    pattern = check_pattern(pattern + group)
    for text in (name, name + "1", name + "b", name + ".", name + "-", pattern):
        assert bool(re.match(to_regex(pattern), text)) == fnmatch.fnmatchcase(text, pattern)
