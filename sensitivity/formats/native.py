"""How does a module run with torchao's own quantized Linears?

`quantize_native`, and what the machine's kernels need.

    quantize_native(pipeline.transformer, recipe.layers)

Formats that a device lacks are refused, never emulated: that is `switch.py`.
"""

import importlib.metadata
from collections.abc import Mapping

import torch
from torch import nn
from torchao.quantization import quantize_

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats.nvfp4 import mslk_is_available
from sensitivity.formats.registry import get_format


def quantize_native(module: nn.Module, formats: Mapping[str, FormatName]) -> None:
    """Quantize Linears of `module` in place with torchao:

    `formats` maps exact FQNs to formats; bf16 and unnamed Linears stay as they are.

    Raises FormatError before touching anything if an FQN is not a Linear of `module`, a shape or
    dtype is refused, or a device lacks the format.
    """
    linears = {fqn: child for fqn, child in module.named_modules() if isinstance(child, nn.Linear)}
    chosen: dict[FormatName, set[str]] = {}
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
        if fmt.name is not FormatName.BF16:
            chosen.setdefault(fmt.name, set()).add(fqn)
    for name, fqns in chosen.items():
        quantize_(
            module,
            get_format(name).native_config(),
            filter_fn=lambda _, fqn, wanted=fqns: fqn in wanted,
        )


def mslk_advice() -> str | None:
    """What NVFP4 loses without mslk, and the command that installs it; None if it is there.

    NVFP4 runs natively either way.
    """
    if mslk_is_available():
        return None
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    index = "https://download.pytorch.org/whl/cu" + (torch.version.cuda or "13.0").replace(".", "")
    command = (
        f"pip install mslk --index-url {index}"
        if (major, minor) >= (2, 12)
        else "pip install mslk-cuda"
    )
    return (
        "mslk is not installed (PyPI's `mslk` is an empty placeholder): NVFP4 quantizes slowly"
        f" unless compiled; run `{command}`"
    )


def describe_versions() -> dict[str, str]:
    """Versions of the packages that decide these numbers: torch, torchao, mslk ("not installed" if
    it is not).
    """
    distributions = (
        {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
        if mslk_is_available()
        else {}
    )
    mslk = distributions.get("mslk") or distributions.get("mslk-cuda") or "not installed"
    return {
        "torch": torch.__version__,
        "torchao": importlib.metadata.version("torchao"),
        "mslk": mslk,
    }
