"""How does a model become what a recipe says? It is checked, quantized in place, and reported on.

    report = apply_layers(layers, model, pipeline, name="mine", emulate=False, caveat="")
    report.counts            # {FormatName.NVFP4: 456, FormatName.BF16: 48}

Method. First everything is checked: the classes, the Linears, the shapes, and the hardware where
native kernels are asked for. A model that does not fit is left as it is. Then the Linears are
quantized, and it is checked that each was: torchao silently leaves a layer as it was when a kernel
does not take it, and offloading, casting or an adapter may hide a quantized weight (`proof`).

What this module does not do: read recipes, or import torch before it is called.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.core.words import and_more, counted
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.recipes.records import ModelInfo

if TYPE_CHECKING:
    from torch import nn

    from sensitivity.recipes.proof import Proof

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ApplyReport:
    """What was done to a model.

    Attributes:
        mode: native kernels, or emulated in bf16 arithmetic.
        layers: the format of every Linear.
        counts: {format: number of Linears}.
        refused: empty, since a Linear that is refused raises.
        proof: which quantized Linears were seen to run quantized. It grows with the first call of
            each denoiser at a quantized step, which raises RecipeError if one ran in bf16.
        caveat: the recipe's, to be shown.
        policy: the recipe's step policy, by which nothing runs yet (`note`).
    """

    mode: Literal["native", "emulated"]
    layers: Mapping[str, FormatName]
    counts: Mapping[FormatName, int]
    refused: Mapping[str, str]
    proof: "Proof"
    caveat: str = ""
    policy: StepPolicy = PLAIN

    @property
    def note(self) -> str:
        """What is still to be done: how the recipe's step policy is run; "" without one."""
        if self.policy.is_plain:
            return ""
        return (
            f"the recipe runs its {self.policy.words}, and every step runs quantized until the"
            " pipeline is called inside `with sensitivity.precision_by_step(pipeline, recipe)`"
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        note = f"; {self.note}" if self.note else ""
        return f"ApplyReport({self.mode}: {counts}; {self.proof}{note})"


def apply_layers(
    layers: Mapping[str, FormatName],
    model: ModelInfo,
    holder: object,
    *,
    name: str,
    emulate: bool,
    caveat: str,
) -> ApplyReport:
    """Quantize the Linears of `holder` as `layers` says.

    A step policy is not run here: the report says how it is, and so does a warning in the log. What
    it needs is kept, which is the bf16 weights where edge steps run in bf16.

    Args:
        layers: the format of every Linear; an `Assignment` may have a step policy.
        model: the denoisers that `layers` is for.
        holder: a diffusers pipeline, or the denoiser itself if there is one.
        name: the recipe's, for messages.
        emulate: compute with the same quantized values in bf16 arithmetic, without native kernels.
        caveat: the recipe's, for the report.

    Raises:
        RecipeMismatchError: the model does not fit.
        RecipeError: the hardware lacks a format, or the kernels left a layer in bf16.
    """
    denoiser = _find_denoiser(model, holder)
    _check_classes(model, denoiser, name)
    linears = _matching_linears(layers, denoiser, name)
    chosen, policy = quantized(layers), Assignment.of(layers).policy
    _check_patches(linears, chosen, is_native=not emulate)
    _check_weights(denoiser)
    _check_shapes(linears, chosen)
    if emulate:
        proof = _emulate(denoiser, layers)
    else:
        _check_hardware(linears, chosen)
        if policy.mode is EdgeMode.BF16 and not policy.is_plain:
            _keep_weights(linears, chosen)
        proof = _quantize(denoiser, chosen)
    report = ApplyReport(
        mode="emulated" if emulate else "native",
        layers=dict(layers),
        counts=dict(Counter(layers.values())),
        refused={},
        proof=proof,
        caveat=caveat,
        policy=policy,
    )
    if report.note:
        log.warning("%s: %s", name, report.note)
    return report


def _find_denoiser(model: ModelInfo, holder: object) -> "nn.Module":
    """The denoiser that the recipe is for: `holder` itself, or an attribute of the pipeline.

    Several denoisers are joined in one module. Compiled modules are unwrapped.
    """
    from torch import nn

    from sensitivity.models.denoisers import joined

    names = list(model.classes)
    is_module = isinstance(holder, nn.Module) and len(names) == 1
    modules = {name: holder if is_module else getattr(holder, name, None) for name in names}
    found = {
        name: getattr(module, "_orig_mod", module)
        for name, module in modules.items()
        if isinstance(module, nn.Module)
    }
    missing = [name for name in names if name not in found]
    if missing:
        one = len(names) == 1
        raise RecipeMismatchError(
            f"found a {type(holder).__name__} without a module named"
            f" {' or '.join(map(repr, missing))}; expected a pipeline that has"
            f" {'it' if one else 'all of ' + ', '.join(names)}, such as {model.pipeline_class}"
            f"{', or the module itself: pass one of them' if one else ': pass it'}"
        )
    return joined(found)


def _check_classes(model: ModelInfo, denoiser: "nn.Module", name: str) -> None:
    from sensitivity.models.denoisers import parts_of

    for part, kind in zip(parts_of(denoiser).values(), model.classes.values(), strict=True):
        if type(part).__name__ != kind:
            raise RecipeMismatchError(
                f"found a {type(part).__name__}; expected {kind}, which the recipe {name!r} is for:"
                " pass that model, or a recipe that was searched for this one"
            )


def _matching_linears(
    layers: Mapping[str, FormatName], denoiser: "nn.Module", name: str
) -> dict[str, "nn.Linear"]:
    """The Linears of `denoiser` by FQN, which are those of `layers` and not yet quantized."""
    import torch

    linears = {
        fqn: module
        for fqn, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    missing = [fqn for fqn in layers if fqn not in linears]
    extra = [fqn for fqn in linears if fqn not in layers]
    if missing or extra:
        from sensitivity.formats.patches import wrappers_in

        advice = wrappers_in(extra) or [
            "load the model and revision that the recipe names, or search again"
        ]
        modules = dict(denoiser.named_modules())
        kinds = {type(modules[fqn]).__name__: None for fqn in missing if fqn in modules}
        instead = f" (replaced by {and_more(kinds, most=3)})" if kinds else ""
        raise RecipeMismatchError(
            f"found other Linears than the recipe {name!r} has: missing in the model"
            f" {counted(missing)}{instead}, extra {counted(extra)}; expected the same:"
            f" {'; '.join(advice)}"
        )
    return linears


def _check_patches(
    linears: Mapping[str, "nn.Linear"], chosen: Mapping[str, FormatName], *, is_native: bool
) -> None:
    """Check that what stands on the Linears leaves a quantized product in place.

    Raises:
        RecipeMismatchError: it does not on some; the message says what it is.
    """
    import torch
    from torch import nn

    from sensitivity.formats.patches import foreign_arithmetic, native_obstacle
    from sensitivity.formats.switchable_linear import PatchedLinear, SwitchableLinear

    sharded = ("DTensor", "ShardedTensor")
    done = [
        fqn
        for fqn, linear in linears.items()
        if (kind := type(linear.weight.data)) is not torch.Tensor and kind.__name__ not in sharded
    ]
    if done:
        raise RecipeMismatchError(
            f"found weights that are not plain tensors in {counted(done)}; expected weights that"
            " are not yet quantized, since a recipe is applied once: load the model again"
        )
    plain = (nn.Linear, SwitchableLinear, PatchedLinear)
    obstacles = {
        fqn: reason
        for fqn in chosen
        if (reason := foreign_arithmetic(linears[fqn], plain=plain))
        or (is_native and (reason := native_obstacle(linears[fqn])))
    }
    if obstacles:
        first, reason = next(iter(obstacles.items()))
        raise RecipeMismatchError(
            f"found Linears that cannot be quantized as they stand: {counted(list(obstacles))};"
            f" expected plain ones. Of {first}: {reason}"
        )


def _check_weights(denoiser: "nn.Module") -> None:
    """Raise RecipeMismatchError if a part is quantized already, also where bf16 is asked for."""
    from sensitivity.models.denoisers import parts_of
    from sensitivity.models.reference_weights import describe_quantized_module

    for part in parts_of(denoiser).values():
        if found := describe_quantized_module(part):
            raise RecipeMismatchError(
                f"found a {type(part).__name__} that is quantized already ({found}); expected bf16,"
                " fp16 or fp32 weights: load the model that it was made of"
            )


def _check_shapes(linears: Mapping[str, "nn.Linear"], chosen: Mapping[str, FormatName]) -> None:
    from sensitivity.formats.registry import get_format

    refused = []
    for fqn, name in chosen.items():
        k, n = linears[fqn].in_features, linears[fqn].out_features
        if reason := get_format(name).refusal(k=k, n=n, dtype=linears[fqn].weight.dtype):
            refused.append(f"{fqn} in {name}: {reason}")
    if refused:
        raise RecipeMismatchError(
            f"found Linears that their format refuses: {counted(refused)}; expected formats that"
            " take every layer: load the model in bf16, or search again for this model"
        )


def _check_hardware(linears: Mapping[str, "nn.Linear"], chosen: Mapping[str, FormatName]) -> None:
    from sensitivity.formats.registry import get_format

    pairs = {(name, linears[fqn].weight.device) for fqn, name in chosen.items()}
    for name, device in sorted(pairs, key=str):
        if reason := get_format(name).native_refusal(device):
            raise RecipeError(
                f"found no native {name} on {device}: {reason}; expected hardware that has the"
                " format: move the model there, or pass emulate=True for the recipe's quality"
                " without its speed"
            )


def _emulate(denoiser: "nn.Module", layers: Mapping[str, FormatName]) -> "Proof":
    """Quantize by emulation, and prove it. A model where it fails is bf16 again."""
    from sensitivity.formats.switch import Switch
    from sensitivity.recipes.proof import Proof, emulated, prove_alone, prove_in_first_calls

    switch = Switch(denoiser, emulate=True)
    chosen = quantized(layers)
    try:
        switch.set(dict(layers))
        proof = Proof(
            linears=tuple(chosen),
            alone=prove_alone({fqn: switch.linears[fqn] for fqn in chosen}, is_native=False),
        )
    except BaseException:
        switch.close()
        raise
    prove_in_first_calls(denoiser, proof, emulated(switch, chosen))
    return proof


def _keep_weights(linears: Mapping[str, "nn.Linear"], chosen: Mapping[str, FormatName]) -> None:
    """Keep the bf16 weights of what is quantized, for edge steps in bf16."""
    from sensitivity.formats.edge_weights import keep_weights

    keep_weights(linears[fqn] for fqn in chosen)


def _quantize(denoiser: "nn.Module", chosen: Mapping[str, FormatName]) -> "Proof":
    """Quantize natively, and check that each Linear was."""
    import torch

    from sensitivity.formats.native import quantize_native
    from sensitivity.recipes.proof import Proof, native, prove_alone, prove_in_first_calls

    quantize_native(denoiser, chosen)
    linears = {fqn: cast("nn.Linear", denoiser.get_submodule(fqn)) for fqn in chosen}
    left = [fqn for fqn, linear in linears.items() if type(linear.weight.data) is torch.Tensor]
    if left:
        raise RecipeError(
            f"found Linears that stayed in bf16: {counted(left)}; expected each in its format:"
            " update torchao, or search again"
        )
    alone = prove_alone(linears, is_native=True)
    proof = Proof(linears=tuple(chosen), is_native=True, alone=alone)
    prove_in_first_calls(denoiser, proof, native(denoiser, linears))
    return proof
