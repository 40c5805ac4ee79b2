"""What latents does a pipeline decode? `recording_latents` notes them in a pipeline call.

    with recording_latents(pipe) as seen:
        output = pipe(...)
    seen.of_each(batch)         # ((B, ...) of the audio VAE, (B, ...) of the VAE)

Method. Inside, `decode` of each component that has one is intercepted, and what it is given is
copied on the device, so that nothing waits for it. Media are as without it, bit by bit.

What it does not do: latents that a pipeline decodes otherwise than by a component's `decode`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.models.entry_points import intercept


class DecodedLatents:
    """The latents that each component was given to decode, in order."""

    def __init__(self) -> None:
        self._given: dict[str, list[Tensor]] = {}

    def note(self, name: str, decode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Copy the first tensor of a call, and decode."""
        first = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if first is not None:
            self._given.setdefault(name, []).append(first.detach().clone())
        return decode(*args, **kwargs)

    def of_each(self, batch: int) -> tuple[Tensor, ...]:
        """(B, ...) latents of each component that decoded, by name, on the CPU.

        () where some are not of `batch` pictures together: nobody knows then whose they are.
        """
        joined = []
        for _, given in sorted(self._given.items()):
            if len({x.shape[1:] for x in given}) > 1 or sum(map(len, given)) != batch:
                return ()
            joined.append(torch.cat(given).cpu())
        return tuple(joined)


@contextmanager
def recording_latents(pipe: Any) -> Iterator[DecodedLatents]:
    """Inside, what the pipeline's components decode is noted."""
    seen = DecodedLatents()
    parts = {
        name: part
        for name, part in getattr(pipe, "components", {}).items()
        if isinstance(part, nn.Module) and callable(getattr(type(part), "decode", None))
    }
    undo = [intercept(part, "decode", partial(seen.note, name)) for name, part in parts.items()]
    try:
        yield seen
    finally:
        for each in reversed(undo):
            each()
