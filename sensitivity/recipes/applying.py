"""How does a model become what a recipe says? The checks before, the quantizing, and the report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sensitivity.core.format_name import FormatName
from sensitivity.core.words import counted
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.recipes.records import ModelInfo

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ApplyReport:
    """What `Recipe.apply` did.

    `counts` is Linears a format; `refused` is empty, because a refusal raises; `caveat` is the
    recipe's.
    """

    mode: Literal["native", "emulated"]
    layers: Mapping[str, FormatName]
    counts: Mapping[FormatName, int]
    refused: Mapping[str, str]
    caveat: str = ""


def apply_layers(
    layers: Mapping[str, FormatName],
    model: ModelInfo,
    holder: object,
    *,
    name: str,
    emulate: bool,
    caveat: str,
) -> ApplyReport:
    """Quantize the Linears of `holder` as `layers` says; see `Recipe.apply`, whose fields these
    are.

    Args:
        layers: format of every Linear.
        model: the components that `layers` is for.
        holder: a diffusers pipeline, or the component itself where it is one.
        name: the recipe's, for messages.
        emulate: compute with the same quantized values in bf16 arithmetic instead of native
            kernels.
        caveat: stands in the report.
    """
    module = _find_component(model, holder)
    linears = _check_fit(layers, model, module, name)
    quantized = {fqn: format for fqn, format in layers.items() if format is not FormatName.BF16}
    _check_shapes(linears, quantized)
    if emulate:
        from sensitivity.formats.switch import Switch

        Switch(module).set(dict(layers))
    else:
        _check_hardware(linears, quantized)
        _quantize(module, quantized)
    counts = dict(Counter(layers.values()))
    mode: Literal["native", "emulated"] = "emulated" if emulate else "native"
    return ApplyReport(mode=mode, layers=dict(layers), counts=counts, refused={}, caveat=caveat)


def _find_component(model: ModelInfo, holder: object) -> "nn.Module":
    """What the recipe describes:

    `holder` itself, or attributes of a pipeline, several as one module. Compiled modules are
    unwrapped.
    """
    from torch import nn

    from sensitivity.models.denoisers import joined

    names = model.classes
    bare = isinstance(holder, nn.Module) and len(names) == 1
    modules = {name: holder if bare else getattr(holder, name, None) for name in names}
    found = {
        name: getattr(module, "_orig_mod", module)
        for name, module in modules.items()
        if isinstance(module, nn.Module)
    }
    missing = [name for name in names if name not in found]
    if missing:
        alone = ", or the module itself; pass one of them" if len(names) == 1 else "; pass it"
        raise RecipeMismatchError(
            f"found a {type(holder).__name__} without a module named"
            f" {' or '.join(map(repr, missing))}; allowed is a pipeline that has"
            f" {'it' if len(names) == 1 else 'all of ' + ', '.join(names)}, such as"
            f" {model.pipeline_class}{alone}"
        )
    return joined(found)


def _check_fit(
    layers: Mapping[str, FormatName], model: ModelInfo, module: "nn.Module", name: str
) -> dict[str, "nn.Linear"]:
    """The Linears of `module` by FQN, if they are the recipe's and still plain."""
    import torch

    from sensitivity.models.denoisers import parts_of

    for part, kind in zip(parts_of(module).values(), model.classes.values(), strict=True):
        if type(part).__name__ != kind:
            raise RecipeMismatchError(
                f"found a {type(part).__name__}; the recipe {name!r} is for {kind}; pass that"
                " model, or a recipe searched for this one"
            )
    linears = {
        fqn: child for fqn, child in module.named_modules() if isinstance(child, torch.nn.Linear)
    }
    missing, extra = (
        [fqn for fqn in layers if fqn not in linears],
        [fqn for fqn in linears if fqn not in layers],
    )
    if missing or extra:
        raise RecipeMismatchError(
            f"found other Linears than the recipe {name!r} has: missing in the model"
            f" {counted(missing)}, extra {counted(extra)}; the two sets must be equal; load the"
            " model and revision that the recipe names, or search again"
        )
    wrapped = [
        fqn for fqn, linear in linears.items() if type(linear.weight.data) is not torch.Tensor
    ]
    if wrapped:
        raise RecipeMismatchError(
            f"found weights that are no plain tensors in {counted(wrapped)}; a recipe is applied"
            " once, to plain weights; load the model again"
        )
    return linears


def _check_shapes(linears: Mapping[str, "nn.Linear"], quantized: Mapping[str, FormatName]) -> None:
    from sensitivity.formats.registry import get_format

    refused = []
    for fqn, name in quantized.items():
        linear = linears[fqn]
        if reason := get_format(name).refusal(
            k=linear.in_features, n=linear.out_features, dtype=linear.weight.dtype
        ):
            refused.append(f"{fqn} in {name}: {reason}")
    if refused:
        raise RecipeMismatchError(
            f"found Linears that their format refuses: {counted(refused)}; every layer must take"
            " its format; load the model in bf16, or search again for this model"
        )


def _check_hardware(
    linears: Mapping[str, "nn.Linear"], quantized: Mapping[str, FormatName]
) -> None:
    from sensitivity.formats.registry import get_format

    for name, device in sorted(
        {(name, linears[fqn].weight.device) for fqn, name in quantized.items()}, key=str
    ):
        if reason := get_format(name).native_refusal(device):
            raise RecipeError(
                f"found no native {name} on {device}: {reason}; native kernels need hardware that"
                " has the format; move the model there, or pass emulate=True for the recipe's"
                " quality without its speed"
            )


def _quantize(module: "nn.Module", quantized: Mapping[str, FormatName]) -> None:
    """Quantize natively, then look: torchao leaves a layer as it was without a word when a kernel
    does not take it.
    """
    import torch

    from sensitivity.formats.native import quantize_native

    quantize_native(module, quantized)
    left = [
        fqn
        for fqn in quantized
        if type(module.get_submodule(fqn).get_parameter("weight").data) is torch.Tensor
    ]
    if left:
        raise RecipeError(
            f"found Linears that stayed in bf16: {counted(left)}; each must take its format; update"
            " torchao, or search again"
        )
