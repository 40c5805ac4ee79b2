"""By which methods does a pipeline enter a component, and how can a call be intercepted?"""

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


def entrances(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every way in which a pipeline enters a component:

    (FQN, part, method); its methods, and the forwards of its parts, two levels deep.
    """
    for method in METHODS:
        if callable(getattr(type(module), method, None)):
            yield "", module, method
    for fqn, part in module.named_modules():
        if fqn.count(".") < 2 and not isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield fqn, part, "forward"


def reads_text(tensors: Iterable[Tensor]) -> bool:
    """Whether the tensors that a call is given are token ids, (B, L), and what goes with them:
    masks and positions, no pictures and no embeddings.
    """
    given = list(tensors)
    return any(x.ndim == 2 and x.dtype in (torch.int64, torch.int32) for x in given) and not any(
        x.is_floating_point() and x.ndim > 2 for x in given
    )


def surround(part: nn.Module, method: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Let `around(original, *args, **kwargs)` answer for a method of one object; gives what undoes
    it.
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
