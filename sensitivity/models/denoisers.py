"""How are several denoisers of a pipeline searched as one?

`joined` makes one module of them, in which FQNs begin with a component's name.

    denoiser = joined({"transformer": pipe.transformer, "transformer_2": pipe.transformer_2})
    denoiser.get_submodule("transformer_2.blocks.0.attn1.to_q")     # Wan 2.2's second denoiser
    parts_of(denoiser)                      # {"transformer": ..., "transformer_2": ...}

The module holds the pipeline's own denoisers: nothing is copied, and the pipeline does not change.
A single denoiser is not wrapped, so its FQNs have no component.

It cannot be called. A pipeline calls its denoisers one by one, so hooks on forwards go on the
parts.
"""

from collections.abc import Mapping

from torch import nn


class Denoisers(nn.Module):
    """Several denoisers under their components' names."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def joined(modules: Mapping[str, nn.Module]) -> nn.Module:
    """One module of all of them; the module itself where there is one."""
    return Denoisers(modules) if len(modules) > 1 else next(iter(modules.values()))


def parts_of(denoiser: nn.Module) -> dict[str, nn.Module]:
    """{component: module} of joined denoisers; {"": denoiser} of a single one."""
    return dict(denoiser.named_children()) if isinstance(denoiser, Denoisers) else {"": denoiser}
