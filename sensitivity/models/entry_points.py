"""Through which methods does a pipeline use a component, and how is such a call intercepted?

for fqn, part, method in entry_points(pipe.vae):        # ("", vae, "decode"), ...
    undo = intercept(part, method, lambda original, *args, **kwargs: original(*args, **kwargs))
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

METHODS = (
    "decode",
    "encode",
    "generate",
    "get_text_features",
    "get_image_features",
    "get_prior_logits",
)
"""Methods besides `forward` that diffusers' pipelines call."""


def entry_points(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every way in which a pipeline may call a component, as (FQN, part, method).

    These are the component's own `METHODS`, and the forwards of it and its parts down to two
    levels.
    """
    for method in METHODS:
        if callable(getattr(type(module), method, None)):
            yield "", module, method
    for fqn, part in module.named_modules():
        if fqn.count(".") < 2 and not isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield fqn, part, "forward"


def reads_text(tensors: Iterable[Tensor]) -> bool:
    """Whether a call with these tensors encodes text.

    It does if some tensor is token ids, (B, L) integers, and none is of pictures or embeddings.
    Masks and positions may go with the ids.
    """
    given = list(tensors)
    return any(x.ndim == 2 and x.dtype in (torch.int64, torch.int32) for x in given) and not any(
        x.is_floating_point() and x.ndim > 2 for x in given
    )


def intercept(part: Any, method: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Let `around(original, *args, **kwargs)` answer calls of one object's method.

    Returns:
        A function that undoes it.
    """
    before = part.__dict__.get(method)
    original = getattr(part, method)
    part.__dict__[method] = wraps(original)(partial(around, original))

    def undo() -> None:
        if before is None:
            part.__dict__.pop(method, None)
        else:
            part.__dict__[method] = before

    return undo
