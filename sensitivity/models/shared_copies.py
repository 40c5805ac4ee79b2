"""How can several skip-lists of one denoiser be on a device at once? `shared_copy`.

A copy has modules of its own and the parameters and buffers of the original. Quantizing replaces
parameters of the copy (`formats.native`), so each list takes the memory of what it quantizes, and
the bf16 weights are there once.

    quantized = shared_copy(pipe.transformer)
    quantize_native(quantized, formats)         # pipe.transformer stays bf16

**Compiled graphs.** torch keeps its graphs by the code of a module's `forward`, checks them one
after another at every call, and counts them against its recompile limit. So that lists do not slow
each other down, or use up each other's limit, the classes of a copy's regions have `forward`s with
code of their own.

What it does not do: copy weights. Whoever writes into a parameter writes into all copies.
"""

import copy
from types import FunctionType

from torch import nn

from sensitivity.models.compiled_regions import regions_of
from sensitivity.models.denoisers import parts_of


def shared_copy(denoiser: nn.Module) -> nn.Module:
    """The same modules on the same parameters and buffers; what is compiled is not copied.

    Args:
        denoiser: one denoiser, or several that are joined.
    """
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    twin = copy.deepcopy(denoiser, {id(x): x for x in tensors})
    made: dict[type[nn.Module], type[nn.Module]] = {}
    for module in (*parts_of(twin).values(), *regions_of(twin)[1].values()):
        kind = type(module)
        if kind not in made and kind not in made.values():
            made[kind] = _with_own_code(kind)
        module.__class__ = made.get(kind, kind)
    return twin


def shares_code(denoiser: nn.Module) -> bool:
    """Whether graphs of several copies may count against one recompile limit: torch may skip a
    decorator, and compile the function inside it, which copies share.
    """
    regions = (*parts_of(denoiser).values(), *regions_of(denoiser)[1].values())
    return any(hasattr(type(region).forward, "__wrapped__") for region in regions)


def _with_own_code(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the same name whose `forward` is the same function with a copy of its code."""
    forward = kind.forward
    if not isinstance(forward, FunctionType):
        return kind
    own = FunctionType(
        forward.__code__.replace(),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__, own.__dict__ = forward.__kwdefaults__, dict(forward.__dict__)
    own.__doc__, own.__annotations__ = forward.__doc__, forward.__annotations__
    names = {"forward": own, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)
