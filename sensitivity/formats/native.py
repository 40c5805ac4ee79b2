"""How does a module run with torchao's own quantized Linears?

`quantize_native` changes Linears in place. A format that the device cannot run is refused, never
emulated; `switch` emulates.

    quantize_native(pipeline.transformer, recipe.layers)
"""

import importlib.metadata
from collections.abc import Mapping

import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats import mslk
from sensitivity.formats._base import Format
from sensitivity.formats.registry import get_format


def quantize_native(module: nn.Module, formats: Mapping[str, FormatName]) -> None:
    """Quantize Linears of `module` in place with torchao.

    Args:
        module: the denoiser, or any module.
        formats: {exact FQN: format}. Linears that are bf16 or not named stay as they are.

    Raises:
        FormatError: an FQN is not a Linear of `module`, a format refuses a shape or dtype, or the
            device lacks the format. Nothing has changed then.
    """
    linears = {fqn: child for fqn, child in module.named_modules() if isinstance(child, nn.Linear)}
    chosen: dict[str, Format] = {}
    for fqn, name in formats.items():
        fmt = get_format(name)
        linear = linears.get(fqn)
        if linear is None:
            raise FormatError(
                f"{fqn!r} is none of the {len(linears)} Linears of this {type(module).__name__}:"
                " take names from `named_modules()`"
            )
        weight = linear.weight
        reason = fmt.refusal(
            k=weight.shape[1], n=weight.shape[0], dtype=weight.dtype
        ) or fmt.native_refusal(weight.device)
        if reason is not None:
            raise FormatError(f"{fqn} cannot be quantized natively: {reason}")
        if fmt.name.is_quantized:
            chosen[fqn] = fmt
    for fqn, fmt in chosen.items():
        fmt.quantize_linear(linears[fqn])


def describe_versions() -> dict[str, str]:
    """Versions of the packages that decide what native kernels compute: torch, torchao, mslk ("not
    installed" where it is missing).
    """
    return {
        "torch": torch.__version__,
        "torchao": importlib.metadata.version("torchao"),
        "mslk": mslk.version() or "not installed",
    }
