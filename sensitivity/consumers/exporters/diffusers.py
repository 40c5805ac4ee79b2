"""How does a diffusers pipeline load already quantized as the recipe says? With a
`PipelineQuantizationConfig` for its denoisers: the object of `to_diffusers`, or one of these texts:

- `python` (default) defines `quantization_config()`, with `TorchAoConfig(FqnToConfig(...))`, and
  `load_pipeline()`. It needs diffusers 0.42, and the code checks that: older releases do not
  resolve its names;
- `json` is the same as {component: `TorchAoConfig.to_dict()`}, for `TorchAoConfig.from_dict`;
- `modules-to-not-convert` is Python for diffusers 0.37 and newer, for one quantized format:
  `TorchAoConfig(config, modules_to_not_convert=[...])`. Entries match parts of names there
  (`proj_out` skips 39 Linears of FLUX). The text has the shortest list that hits exactly the bf16
  Linears (`exporters.substrings`).

- `modelopt` is the `quantization_config` of the denoiser's config.json in a checkpoint that
  ModelOpt wrote, with exact names in `ignore`; it describes weights that were quantized with this
  list. Its fp8 has one scale a tensor. For Cosmos3 it carries a step policy.

Both Pythons of a recipe with a step policy in 16 bits define `StepPolicy`, a context manager and
`callback_on_step_end` in one (`exporters._steps_code`).

    from flux_recipe import load_pipeline
    pipeline = load_pipeline()            # `from_pretrained` with `quantization_config()`

A role of several blocks is one `re:` key, which spells out the blocks' numbers
(`exporters.exact_targets`). Formats are those of torchao's configs (`exporters.torchao`). The
config quantizes the recipe's components and changes no other
component. diffusers never quantizes Linears whose name contains a part of their class's
`_keep_in_fp32_modules`: a recipe that quantizes one is refused, and the nearest recipe leaves them
in bf16. How diffusers reads a list is in `readers.diffusers`. It is imported inside functions only.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    Exporter,
    indented_json,
    one_or_all,
    only_format,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.exporters._checkpoint_policy import (
    ALGORITHMS,
    DIFFUSERS_NOTE,
    checkpoint_configs,
    checkpoint_obstacles,
    policy_in,
)
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.exporters._python import (
    MSLK,
    pattern_line,
    read_constants,
    write_configs,
    write_layers,
)
from sensitivity.consumers.exporters._steps_code import steps_code, steps_constant, steps_in
from sensitivity.consumers.exporters.exact_targets import counted_targets
from sensitivity.consumers.exporters.substrings import exact_substrings
from sensitivity.consumers.exporters.torchao import (
    FORMATS,
    LACKS,
    check_version,
    fqn_to_config_dicts,
    fqn_to_configs,
    native_config_dicts,
    torchao_notes,
)
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.diffusers import kept_in_fp32
from sensitivity.consumers.rules import hits
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

MIN_DIFFUSERS, MIN_FOR_SUBSTRINGS = (0, 42), (0, 37)
"""The oldest diffusers that reads `FqnToConfig`, and `modules_to_not_convert`, as written here."""

SUBSTRINGS, CHECKPOINT = "modules-to-not-convert", "modelopt"

_HEAD = """\
{header}

import importlib.util

import diffusers
import torch
from torchao.core.config import config_from_dict
{imports}
"""

_CODE = '''

def quantization_config():
    """What DiffusionPipeline.from_pretrained(..., quantization_config=...) takes."""
    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < {minimum}:
        raise RuntimeError(
            f"found diffusers {{diffusers.__version__}}; expected {dotted} or newer, since older"
            " ones misread it; pip install -U diffusers"
        ){check}
    if "nvfp4" in CONFIGS and not _has_mslk():
        CONFIGS["nvfp4"]["_data"]["use_triton_kernel"] = False
    configs = {{name: config_from_dict(config) for name, config in CONFIGS.items()}}
    mapping = {{}}
{mapping}
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping) if mapping else None


def load_pipeline({model}, **options):
    """The {pipeline}, quantized while it is loaded."""
    return diffusers.DiffusionPipeline.from_pretrained(
        model,{revision}
        quantization_config=quantization_config(),
        {dtype}=torch.bfloat16,
        **options,
    )
'''

_EXACT = """\
    for component, layers in LAYERS.items():
        keys = {key: configs[name] for key, name in layers.items()}
        mapping[component] = diffusers.TorchAoConfig(FqnToConfig(keys))"""

_PARTS = """\
    for component, skip in SKIP.items():
        for config in configs.values():  # there is one
            own = diffusers.TorchAoConfig(config, modules_to_not_convert=list(skip))
            mapping[component] = own"""


@dataclass(frozen=True, kw_only=True)
class DiffusersExporter(Exporter):
    """Python (default) or JSON for `from_pretrained(quantization_config=...)`."""

    name: ClassVar[str] = "diffusers"
    forms: ClassVar[Mapping[str, str]] = {
        "python": ".py",
        "json": ".diffusers.json",
        SUBSTRINGS: ".py",
        CHECKPOINT: ".diffusers.json",
    }
    lacks: ClassVar[Mapping[FormatName, str]] = LACKS

    @property
    def formats(self) -> frozenset[FormatName]:  # type: ignore[override]
        """torchao's; of ModelOpt's checkpoints those with a name there."""
        return frozenset({FormatName.BF16, *ALGORITHMS}) if self.form == CHECKPOINT else FORMATS

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """torchao's notes; of a checkpoint those of its reader, and how Cosmos3 is switched."""
        if self.form != CHECKPOINT:
            return torchao_notes(recipe)
        own = () if recipe.step_policy is None else (DIFFUSERS_NOTE,)
        return (*get_reader("modelopt").read(text).notes, *own)

    @property
    def max_formats(self) -> int:  # type: ignore[override]
        """One in the forms whose list has no formats."""
        return 1 if self.form in (SUBSTRINGS, CHECKPOINT) else len(FormatName)

    def render(self, recipe: Recipe) -> str:
        """The text of the form."""
        if self.form == CHECKPOINT:
            return indented_json(one_or_all(recipe, checkpoint_configs(recipe)))
        if self.form == "json":
            return indented_json(_exact_configs(fqn_to_config_dicts(recipe)))
        configs = {name.value: config for name, config in native_config_dicts(recipe).items()}
        header = "\n".join(f"# {line}" for line in describe(recipe))
        constants = write_configs(configs)
        imports = "import torchao\n" if FormatName.FP8_LB in configs else ""
        if self.form == SUBSTRINGS:
            constants += _write_substrings(recipe)
        else:
            imports += "from torchao.quantization import FqnToConfig\n"
            constants += write_layers(_layers(recipe), "what is not here stays bf16")
        constants += steps_constant(recipe)
        return _HEAD.format(header=header, imports=imports) + constants + self._code(recipe)

    def policy_obstacles(self, assignment: Assignment, classes: Mapping[str, str]) -> list[str]:
        """Of Python: bf16 weights, which a pipeline that is loaded quantized never has. Of a
        ModelOpt checkpoint: those of diffusers' own parser. A JSON says nothing of steps.
        """
        if self.form == CHECKPOINT:
            return checkpoint_obstacles(self.name, assignment, classes)
        if self.form == "json":
            return super().policy_obstacles(assignment, classes)
        if assignment.policy.is_plain or assignment.policy.mode is EdgeMode.A16:
            return []
        return [
            "it loads the pipeline quantized, so that there are no bf16 weights to keep beside for"
            f" {assignment.policy.words} (the exporter torchao, form filter-fn, keeps them)"
        ]

    def step_policy(self, text: str, recipe: Recipe) -> StepPolicy:
        """What the Python runs, or what diffusers' parser makes of a checkpoint's policy."""
        if self.form == CHECKPOINT and not recipe.model.components:
            return policy_in(self.name, json.loads(text))
        if self.form in ("python", SUBSTRINGS):
            return steps_in(text, recipe)
        return super().step_policy(text, recipe)

    def _code(self, recipe: Recipe) -> str:
        """The code behind the constants."""
        for_older = self.form == SUBSTRINGS
        minimum = MIN_FOR_SUBSTRINGS if for_older else MIN_DIFFUSERS
        model, is_hub = recipe.model, "/" in recipe.model.id
        has_revision = is_hub and model.revision and not model.revision.startswith("sha256:")
        code = _CODE.format(
            pipeline=model.pipeline_class,
            model=f"model={model.id!a}" if is_hub else "model",
            revision=f"\n        revision={model.revision!a}," if has_revision else "",
            dtype="torch_dtype" if for_older else "dtype",
            minimum=minimum,
            dotted=".".join(map(str, minimum)),
            mapping=_PARTS if for_older else _EXACT,
            check=check_version(quantized_formats(recipe)),
        )
        return code + MSLK + steps_code(recipe)

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of the config that the text defines."""
        if self.form == CHECKPOINT:
            listed = get_reader("modelopt").read(text)
            return listed.assign(tree_of(recipe, fqns), quantized=FormatName.BF16)
        tree, mapping = tree_of(recipe, fqns), self._mapping(text, recipe)
        if not mapping:
            return dict.fromkeys(tree.fqns, FormatName.BF16)
        listed = get_reader("diffusers").read(json.dumps(mapping))
        return listed.assign(tree, quantized=only_format(recipe))

    def _mapping(self, text: str, recipe: Recipe) -> dict[str, Any]:
        """{component: `TorchAoConfig.to_dict()`} that the text defines."""
        if self.form == "json":
            mapping: dict[str, Any] = json.loads(text)
            return mapping
        if self.form == SUBSTRINGS:
            configs, skip = read_constants(text, "CONFIGS", "SKIP", code=self._code(recipe))
            return {
                component: _torchao_config(config, skip[component])
                for config in configs.values()
                for component in skip
            }
        configs, layers = read_constants(text, "CONFIGS", "LAYERS", code=self._code(recipe))
        keys = {
            component: {key: configs[name] for key, name in own.items()}
            for component, own in layers.items()
        }
        return _exact_configs(
            {
                component: {"_type": "FqnToConfig", "_data": {"fqn_to_config": own}}
                for component, own in keys.items()
            }
        )

    def limits(self, tree: ModelTree) -> Limits:
        """What diffusers keeps in fp32 is never quantized."""
        kept: dict[str, str] = {}
        for component, kind in tree.classes.items():
            inside = {
                tree.inside(fqn): fqn for fqn in tree.fqns if tree.component_of(fqn) == component
            }
            parts = kept_in_fp32(kind)
            why = f"{kind}._keep_in_fp32_modules names {', '.join(parts)}"
            for part in parts:
                kept |= {inside[name]: why for name in hits("dotted-substring", part, inside)}
        return replace(
            super().limits(tree), kept={fqn: kept[fqn] for fqn in tree.fqns if fqn in kept}
        )


def to_diffusers(recipe: Recipe, *, allow_random_weights: bool = False) -> Any:
    """`diffusers.PipelineQuantizationConfig` that loads the recipe's components quantized.

    Args:
        recipe: the recipe.
        allow_random_weights: take a recipe that was searched on random weights, which says nothing
            about the model.

    Raises:
        RecipeError: the recipe is of random weights and that is not allowed; or diffusers is older
            than 0.42, or would treat a layer otherwise than the recipe says.
    """
    recipe.check_weights(allow_random=allow_random_weights)
    import diffusers

    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < MIN_DIFFUSERS:
        raise RecipeError(
            f"found diffusers {diffusers.__version__}; expected 0.42 or newer, since older ones do"
            " not resolve FqnToConfig; pip install -U diffusers, or export it in the form"
            f" {SUBSTRINGS}, or with the exporter torchao"
        )
    exporter = DiffusersExporter(form="json")
    exporter.check(recipe)
    exporter.verify(recipe, recipe.layers)
    mapping = {
        component: diffusers.TorchAoConfig(config)
        for component, config in fqn_to_configs(recipe).items()
    }
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


def _layers(recipe: Recipe) -> dict[str, list[str]]:
    """{component: the lines of `LAYERS`, a key with its format each} of what is quantized."""
    found: dict[str, list[str]] = {}
    for component, formats in recipe.layers_by_component.items():
        for name in dict.fromkeys(quantized(formats).values()):
            own = [fqn for fqn, fmt in formats.items() if fmt is name]
            found.setdefault(component, []).extend(
                pattern_line(key, f': "{name}",', count) for key, count in counted_targets(own)
            )
    return found


def _write_substrings(recipe: Recipe) -> str:
    """`SKIP`: the entries of each component that is quantized, each with what it hits."""
    lines = [
        "SKIP = {  # component -> parts of the names of Linears that stay bf16, for this model only"
    ]
    for component, layers in recipe.layers_by_component.items():
        if quantized(layers):
            entries = exact_substrings(skipped(layers), layers)
            lines += [
                f'    "{component}": [',
                *(f'        "{entry}",  # {reason}' for entry, reason in entries.items()),
                "    ],",
            ]
    return "\n".join([*lines, "}"]) + "\n"


def _exact_configs(configs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{component: `TorchAoConfig.to_dict()`} of {component: torchao's config as JSON}."""
    return {component: _torchao_config(config, None) for component, config in configs.items()}


def _torchao_config(config: dict[str, Any], skip: list[str] | None) -> dict[str, Any]:
    """`TorchAoConfig.to_dict()` of torchao's config as JSON."""
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config},
        "modules_to_not_convert": skip,
    }
