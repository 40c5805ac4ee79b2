"""What stands on a Linear besides its own class, and does a quantized product still fit it?

Offloading, casting, adapters, sharding and reparametrizations change a Linear from outside: a
`forward` on the instance, hooks, another class, a weight that is computed or of another tensor
class. Three questions are answered here, by attributes alone; nothing is called.

    foreign_arithmetic(linear)     # why its product cannot be replaced at all; None if it can
    native_obstacle(linear)        # why torchao's weight would not stay; None if it would
    has_passing_weight(linear)     # whether its weight must be read in each call
    describe(linear)               # "accelerate's AlignDevicesHook, 2 forward hooks"

Whether a patch really multiplies by the Linear's weight cannot be seen from attributes: `proof`
calls it.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

COMPUTED = "WeightNorm, SpectralNorm and pruning"
WRAPPED_NAMES: Mapping[str, str] = {
    "_orig_mod": (
        "submodules wrapped by torch.compile: apply the recipe first and compile then, or compile"
        " in place (`module.compile()`, `compile_repeated_blocks()`)"
    ),
    "base_layer": (
        "Linears wrapped by PEFT, as for a LoRA: fuse or remove it first (`pipe.fuse_lora()`,"
        " `pipe.unload_lora_weights()`)"
    ),
    "_fsdp_wrapped_module": "modules wrapped by FSDP: apply the recipe before they are sharded",
    "_checkpoint_wrapped_module": (
        "modules wrapped for activation checkpointing: apply the recipe to the model without it"
    ),
    "module": (
        "modules inside a wrapper, such as DistributedDataParallel: apply the recipe to what it"
        " wraps (its attribute `module`)"
    ),
    "parametrizations": (
        "parametrized Linears: make them plain first"
        " (`torch.nn.utils.parametrize.remove_parametrizations(module, name)`)"
    ),
}
"""{part of an FQN that a wrapper adds: what it is, and what to do}"""


def foreign_arithmetic(
    linear: nn.Linear, *, plain: tuple[type[nn.Linear], ...] = (nn.Linear,)
) -> str | None:
    """Why the product of a Linear cannot be replaced by a quantized one, with the next step; None
    if it can.

    Args:
        linear: the Linear.
        plain: the classes whose arithmetic is that of `nn.Linear`.
    """
    kind = type(linear).__name__
    if parametrize.is_parametrized(linear):
        return (
            f"it is a {kind} by torch.nn.utils.parametrize, and only plain nn.Linear change format:"
            " make it plain with `torch.nn.utils.parametrize.remove_parametrizations(module,"
            " 'weight')`"
        )
    if type(linear) not in plain:
        return f"it is a {kind}, and only plain nn.Linear change format"
    weight = linear.weight.data
    if type(weight) is not torch.Tensor:
        return (
            f"its weight is a {type(weight).__name__}, and only plain tensors change format:"
            f" {_tensor_advice(type(weight).__name__)}"
        )
    if hook := _casting_hook(linear):
        return (
            f"its weight is kept as {str(weight.dtype).removeprefix('torch.')} between calls by"
            f" {hook}, and formats quantize bf16: load the model again and leave layerwise casting"
            " off"
        )
    return None


def native_obstacle(linear: nn.Linear) -> str | None:
    """Why a native quantized weight would not stay in place, with the next step; None if it would.

    It would be replaced before the next call, and the Linear would run in bf16 without a word.
    """
    if "weight" not in linear._parameters:
        return (
            f"its weight is computed before each call ({describe(linear) or COMPUTED}): make it a"
            " plain parameter first, as `torch.nn.utils.remove_weight_norm` or"
            " `torch.nn.utils.prune.remove(module, 'weight')` do"
        )
    if linear.weight.is_meta:
        return (
            f"its weight is not in memory between calls ({describe(linear) or 'it is meta'}): apply"
            " the recipe first and offload then, or take the hooks off"
            " (`pipe.remove_all_hooks()`)"
        )
    if "group_offloading" in _hooks_of_diffusers(linear):
        return (
            "its weight is moved by diffusers' group offloading: apply the recipe first and call"
            " `enable_group_offload` then"
        )
    return None


def has_passing_weight(linear: nn.Module) -> bool:
    """Whether the weight that a call sees may be another than that of now: it is not in memory, or
    something that runs before the product may change it.
    """
    weight = linear._parameters.get("weight")
    return (
        weight is None
        or weight.is_meta
        or "forward" in vars(linear)
        or bool(linear._forward_pre_hooks)
    )


def moves_weights(module: nn.Module) -> bool:
    """Whether a hook on a module moves the weights below it in and out of memory."""
    hook = getattr(module, "_hf_hook", None)
    return "group_offloading" in _hooks_of_diffusers(module) or bool(
        getattr(hook, "offload", False)
    )


def describe(linear: nn.Module) -> str:
    """What stands on a Linear, in words; "" if nothing does."""
    found = [f"diffusers' hook {name}" for name in _hooks_of_diffusers(linear)]
    if (hook := getattr(linear, "_hf_hook", None)) is not None:
        found.append(f"accelerate's {type(hook).__name__}")
    if "forward" in vars(linear) and not found:
        forward = vars(linear)["forward"]
        name = getattr(forward, "__qualname__", type(forward).__name__)
        found.append(f"a `forward` on the instance ({name})")
    found += [_name_of(hook) for hook in linear._forward_pre_hooks.values()]
    found += [_name_of(hook) for hook in linear._forward_hooks.values()]
    if linear._compiled_call_impl is not None:
        found.append("`module.compile()`")
    return ", ".join(dict.fromkeys(found))


def is_recording_order(linear: nn.Module) -> bool:
    """Whether a hook takes note of the order of the first calls, so that one call more would
    disturb it, as diffusers' prefetching does.
    """
    return "layer_execution_tracker" in _hooks_of_diffusers(linear)


def wrappers_in(fqns: list[str]) -> list[str]:
    """What wrappers these names show, each with its next step."""
    parts = {part for fqn in fqns for part in fqn.split(".")}
    return [advice for part, advice in WRAPPED_NAMES.items() if part in parts]


def _hooks_of_diffusers(module: nn.Module) -> list[str]:
    registry = getattr(module, "_diffusers_hook", None)
    return list(getattr(registry, "hooks", {}))


def _casting_hook(linear: nn.Linear) -> str | None:
    """The name of the hook that stores the weight in another dtype, if there is one."""
    if "layerwise_casting" in _hooks_of_diffusers(linear):
        return "diffusers' layerwise casting"
    return None


def _name_of(hook: object) -> str:
    kind = type(hook).__name__
    name = getattr(hook, "__qualname__", kind)
    return f"the hook {name}"


def _tensor_advice(kind: str) -> str:
    if kind in ("DTensor", "AsyncCollectiveTensor", "ShardedTensor"):
        return "apply the recipe before the model is sharded (FSDP, tensor parallelism)"
    return "load the model again in bf16, not quantized"
