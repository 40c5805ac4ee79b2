"""How does vLLM-Omni serve a model quantized as the recipe says? With a `quantization_config` that
lists what stays bf16. There are two forms:

- `json`, for fp8 or int8: `ignored_layers` of weights in bf16, which are quantized when they are
  loaded;
- `checkpoint`, for nvfp4 and fp8: the `quantization_config` in the `config.json` of a checkpoint
  that ModelOpt wrote, with `ignore`. It describes weights that were quantized with the same list
  (exporter `modelopt`), nvfp4's with four-over-six scales or not; its fp8 has one scale a tensor.
  For Cosmos3 it carries a step policy (`consumers.step_policies`).

    text = get_exporter("vllm-omni").export(recipe)

    Omni(model=MODEL, quantization_config=json.loads(text))

The server takes the first text as its option `diffusion-quantization-config`.

vLLM-Omni's online mxfp8 is for NPU and XPU only. Its fp8 scales each weight as a whole, ours each
row; its int8 has one scale a row as ours; the notes say so. Weight-only formats are refused: those
that it has are read from checkpoints of other tools, as is INT8 with a rotation. Much of a model is
never quantized there: all modulation, all embedders, and all of FLUX.1's double-stream blocks.

An entry of `ignore` hits every name that it is a part of, unless it is a shell pattern. So a name
that is part of another one is written as a pattern that matches itself alone: `[p]roj_out`.

The object has one config for each component where there are several denoisers; in `json` also for
FLUX.2 [dev], whose text encoder would otherwise be quantized as well.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    CALIBRATED,
    CALIBRATES,
    FOUR_OVER_SIX,
    INT8_NOTE,
    SAME_WORD,
    indented_json,
    one_or_all,
    only_format,
)
from sensitivity.consumers.exporters._checkpoint_policy import (
    ALGORITHMS,
    GROUP_SIZE,
    REASONER_NOTE,
    checkpoint_obstacles,
    policy_in,
    with_policy,
)
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.vllm_omni import KLEIN_NOTE, VllmOmniReader
from sensitivity.consumers.served_names import NAMELESS, served_names
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import StepPolicy
from sensitivity.recipes.recipe import Recipe

PER_COMPONENT = ("Flux2Pipeline",)
"""Pipelines whose other components are quantized as well if the config names no component.

FLUX.2 [klein]'s pipelines are none of these, and would find no part for their denoiser.
"""


@dataclass(frozen=True, kw_only=True)
class VllmOmniExporter(ServedExporter):
    """JSON of a `quantization_config`, or of one for each component."""

    name: ClassVar[str] = "vllm-omni"
    forms: ClassVar[Mapping[str, str]] = {
        "json": ".vllm-omni.json",
        "checkpoint": ".vllm-omni.json",
    }
    max_formats: ClassVar[int] = 1
    reads_as: ClassVar[Mapping[FormatName, FormatName]] = SAME_WORD

    @property
    def formats(self) -> frozenset[FormatName]:  # type: ignore[override]
        """The formats that the form is for, and bf16."""
        checkpoint = (*ALGORITHMS, *SAME_WORD)
        own = checkpoint if self.form == "checkpoint" else (FormatName.FP8, FormatName.INT8)
        return frozenset({FormatName.BF16, *own})

    def policy_obstacles(self, assignment: Assignment, classes: Mapping[str, str]) -> list[str]:
        """Those of vLLM-Omni in a checkpoint; weights that it quantizes itself have no policy."""
        if self.form != "checkpoint":
            return super().policy_obstacles(assignment, classes)
        return checkpoint_obstacles(self.name, assignment, classes)

    def step_policy(self, text: str, recipe: Recipe) -> StepPolicy:
        """What vLLM-Omni's parser makes of a checkpoint's policy."""
        if self.form != "checkpoint" or recipe.model.components:
            return super().step_policy(text, recipe)
        return policy_in(self.name, json.loads(text))

    @property
    def reader(self) -> Reader:
        """The reader of `quantization_config`."""
        return VllmOmniReader()

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """The reader's notes, without the one about the pipeline, which a recipe names; and how
        ModelOpt's nvfp4 differs.
        """
        used = set(recipe.layers.values())
        own = [CALIBRATED] if used & CALIBRATES else []
        own += [FOUR_OVER_SIX] if FormatName.NVFP4_4O6 in used else []
        own += [INT8_NOTE] if FormatName.INT8 in used else []
        own += [] if recipe.step_policy is None else [REASONER_NOTE]
        return (*own, *(note for note in super().notes(recipe, text) if note != KLEIN_NOTE))

    def limits(self, tree: ModelTree) -> Limits:
        """Those of every server, and Linears that have no name, so that no list keeps them."""
        limits = super().limits(tree)
        if limits.unknown:
            return limits
        served = served_names(self.name, tree)
        return replace(
            limits, unnamed=tuple(fqn for fqn, name in served.items() if name == NAMELESS)
        )

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        if self.form == "checkpoint":
            configs = {
                name: with_policy(self._checkpoint(recipe, name), recipe.assignment)
                for name in recipe.model.classes
            }
            return indented_json(one_or_all(recipe, configs))
        parts: dict[str, Any] = {
            component: {
                "method": "int8" if only_format(recipe) is FormatName.INT8 else "fp8",
                "activation_scheme": "dynamic",
                "ignored_layers": self.bf16_names(recipe, component),
            }
            for component in recipe.model.classes
        }
        if recipe.model.pipeline_class in PER_COMPONENT:
            return indented_json(parts)
        return indented_json(one_or_all(recipe, parts))

    def _checkpoint(self, recipe: Recipe, component: str) -> dict[str, Any]:
        """`quantization_config` of a component's `config.json`."""
        kept, chosen = self.bf16_names(recipe, component), self.quantized_names(recipe, component)
        alone = [f"[{name[0]}]{name[1:]}" if _is_part(name, chosen) else name for name in kept]
        name = only_format(recipe)
        is_fp8 = name is FormatName.FP8
        return {
            "quant_method": "modelopt",
            "quant_algo": ALGORITHMS[FormatName.FP8 if is_fp8 else FormatName.NVFP4],
            **({} if is_fp8 else {"group_size": GROUP_SIZE}),
            "ignore": alone if chosen else ["*"],
        }


def _is_part(name: str, others: Iterable[str]) -> bool:
    return any(name in other for other in others)
