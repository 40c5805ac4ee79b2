"""How are several denoisers of a pipeline searched as one?

`joined`: a module that holds them, so that FQNs begin with a component's name.

    denoiser = joined({"transformer": pipe.transformer, "transformer_2": pipe.transformer_2})     # Wan 2.2
    [fqn for fqn, _ in denoiser.named_modules()]        # "", "transformer", "transformer.blocks.0.attn1.to_q", ...
    parts_of(denoiser)                                  # {"transformer": ..., "transformer_2": ...}

It holds the pipeline's own modules: nothing is copied, and the pipeline does not know of it. One
denoiser alone stays what it is, with the names that it has. What it does not do: run. A pipeline
calls its denoisers one by one, so hooks on forwards go to the parts.
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
    """{component: module}; {"": denoiser} of one alone."""
    return dict(denoiser.named_children()) if isinstance(denoiser, Denoisers) else {"": denoiser}
