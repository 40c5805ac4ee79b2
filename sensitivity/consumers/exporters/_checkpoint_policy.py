"""Can the checkpoint that an exporter describes carry a recipe's step policy? What the exporters of
`quantization_config` share: diffusers (form `modelopt`), vLLM-Omni and SGLang.

Every tool that reads a policy reads it for one model, in one mode and for few formats
(`consumers.step_policies`). `checkpoint_obstacles` says what is in the way; `with_policy` adds the
object; `policy_in` reads it back as the tool does, which is the proof.
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.consumers.exporters._base import only_format
from sensitivity.consumers.step_policies import (
    COMPONENT,
    KEY,
    POLICY_TOOLS,
    RUNTIME,
    ignored_because,
    policy_object,
    read_policy,
)
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.recipes.recipe import Recipe

ALGORITHMS: Mapping[FormatName, str] = {FormatName.FP8: "FP8", FormatName.NVFP4: "NVFP4"}
"""{format: the `quant_algo` of the checkpoint}."""
GROUP_SIZE = 16
"""Values that share a scale in NVFP4."""
REASONER_NOTE = (
    "Cosmos3's reasoner runs once a request there, in 16 bits (`reasoner` a16), where the recipe"
    " switches its Linears by step like all others"
)
DIFFUSERS_NOTE = (
    "Cosmos3's reasoner runs in 16 bits at all steps there (`reasoner` a16), and diffusers 0.42.1"
    " counts `self_attn.add_q_proj` and its like, the attention of the generation path, as the"
    " reasoner's: it is slower than the recipe says, and no coarser"
)


def checkpoint_obstacles(
    tool: str, assignment: Assignment, classes: Mapping[str, str]
) -> list[str]:
    """Why a tool does not run a checkpoint by this policy, one sentence each; none if it does.

    Args:
        tool: a key of `POLICY_TOOLS`.
        assignment: formats and policy of a recipe.
        classes: {component: class in diffusers} of its denoisers.
    """
    policy = assignment.policy
    if policy.is_plain:
        return []
    if because := ignored_because(tool, classes.values()):
        return [because]
    found = []
    if list(classes) != [COMPONENT]:
        found.append(
            f"its policy is for the component {COMPONENT!r}, and the recipe is for"
            f" {', '.join(classes)}"
        )
    if policy.mode is EdgeMode.BF16:
        found.append(
            "its edge steps run the quantized weights with 16-bit activations (a16), and the"
            " recipe's run in bf16"
        )
    known = POLICY_TOOLS[tool].algorithms
    used = dict.fromkeys(quantized(assignment).values())
    return found + [
        f"it switches Linears of ModelOpt's {' and '.join(known)} by step, and none in {name}"
        for name in used
        if ALGORITHMS.get(name) not in known
    ]


def with_policy(config: dict[str, Any], assignment: Assignment) -> dict[str, Any]:
    """A `quantization_config` with the policy, if there is one that a checkpoint can say."""
    policy = assignment.policy
    if policy.is_plain or policy.mode is not EdgeMode.A16:
        return config
    return config | {RUNTIME: {KEY: policy_object(policy)}}


def checkpoint_configs(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """{component: the `quantization_config` of its config.json} of a checkpoint that ModelOpt
    wrote, as diffusers loads it, with the step policy if there is one.
    """
    name = only_format(recipe)
    algorithm = ALGORITHMS.get(name, ALGORITHMS[FormatName.FP8])
    size = {"group_size": GROUP_SIZE} if name is FormatName.NVFP4 else {}
    return {
        component: with_policy(
            {
                "quant_method": "modelopt",
                "quant_type": algorithm,
                "quant_algo": algorithm,
                **size,
                "ignore": skipped(layers) if quantized(layers) else ["*"],
            },
            recipe.assignment,
        )
        for component, layers in recipe.layers_by_component.items()
    }


def policy_in(tool: str, config: Mapping[str, Any]) -> StepPolicy:
    """The policy by which a tool runs Cosmos3 from this config; the plain one without any.

    Raises:
        PatternError: the tool refuses it.
    """
    found = read_policy(tool, config)
    return PLAIN if found is None else found.policy
