"""How do the tensors of a run come into being, and how many bytes do a module's weights take?

`materialize` makes the inputs of a denoiser call from their description, and `stored_bytes` counts
weights as they are stored.

    args = materialize(call.args, torch.device("cuda"))
    stored_bytes(denoiser)
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_Tree = TypeVar("_Tree")


def materialize(tree: _Tree, device: torch.device, *, seed: int = 0) -> _Tree:
    """The same tree of tensors on `device`.

    Real tensors keep their values and dtype. Meta tensors become random normal if they are floating
    or complex, and zeros otherwise; the same seed gives the same values.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def place(x: Tensor) -> Tensor:
        if x.device.type != "meta":
            return x.to(device)
        if x.dtype.is_floating_point or x.dtype.is_complex:
            return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator)
        return torch.zeros(x.shape, dtype=x.dtype, device=device)

    placed: _Tree = pytree.tree_map_only(Tensor, place, tree)
    return placed


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are stored.

    A quantized weight counts its codes and scales. Shared storage counts once.
    """
    storages: dict[tuple[int, int], int] = {}
    for outer in [*module.parameters(), *module.buffers()]:
        for x in _inner_tensors(outer):
            storage = x.untyped_storage()
            address = storage.data_ptr()
            # Tensors without an address (meta) share nothing.
            storages[address, 0 if address else len(storages)] = storage.nbytes()
    return sum(storages.values())


def _inner_tensors(x: Tensor) -> Iterable[Tensor]:
    """The plain tensors that a tensor is made of: codes and scales of a quantized one."""
    plain = x.data if isinstance(x, nn.Parameter) else x
    flatten = getattr(plain, "__tensor_flatten__", None)
    if flatten is None:
        yield plain
        return
    for name in flatten()[0]:
        yield from _inner_tensors(getattr(plain, name))
