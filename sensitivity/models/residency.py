"""How does a module use the device only while it is needed?

`Guest`: it comes when it is called, and leaves when it is told to.

    guest = Guest(pipe.vae, device="cuda", source=home_of(pipe.vae))
    pipe.vae.decode(latents)        # its weights come first
    guest.leave()                   # and are given back

A guest that is away keeps its modules, its buffers and its configuration; its parameters are on
meta. It says of itself that it is on the device, since pipelines ask where its inputs belong. It
comes back from pinned host memory (`home_of`) or from wherever else `source` reads.

What it does not do: part of a module at a time; modules that are entered in other ways than
`entrances` lists.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.models.entrances import entrances, surround

META = torch.device("meta")

Source = Callable[[], Mapping[str, Tensor]]
"""Gives {name of each parameter, repeats of tied ones included: its values}, on whichever device
they are.
"""


def home_of(module: nn.Module) -> Source:
    """The module's own values, kept in host memory, pinned where CUDA is there."""
    values = {name: p.detach().cpu() for name, p in module.named_parameters(remove_duplicate=False)}
    if torch.cuda.is_available():
        values = {name: value.pin_memory() for name, value in values.items()}
    return lambda: values


def source_from(make: Callable[[], nn.Module]) -> Source:
    """The values of a module that is made again each time, and forgotten."""
    return lambda: {name: p.detach() for name, p in make().named_parameters(remove_duplicate=False)}


class Guest:
    """A module whose parameters are on the device while it is used.

    Making one moves its buffers there; its parameters stay where they are until it is told.

    Attributes:
        module: the component.
        here: whether its parameters are on the device.
    """

    def __init__(
        self, module: nn.Module, *, device: str, source: Source, here: bool = False
    ) -> None:
        self.module, self.device, self.source, self.here = (
            module,
            torch.device(device),
            source,
            here,
        )
        for part in module.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = buffer.to(self.device)
        say_device(module, self.device)
        self._undo = [surround(part, method, self._enter) for _, part, method in entrances(module)]

    def come(self) -> None:
        """Bring the parameters, unless they are there."""
        if self.here:
            return
        moved: dict[tuple[int, tuple[int, ...]], nn.Parameter] = {}
        values = self.source()
        for name, part, key in _slots(self.module):
            value = values[name]
            same = (value.data_ptr(), value.stride())  # tied parameters stay tied
            if same not in moved:
                moved[same] = nn.Parameter(
                    value.to(self.device, non_blocking=True), requires_grad=False
                )
            part._parameters[key] = moved[same]
        self.here = True

    def leave(self) -> None:
        """Give the parameters' memory back."""
        for _, part, key in _slots(self.module):
            parameter = part._parameters[key]
            assert parameter is not None
            part._parameters[key] = nn.Parameter(
                torch.empty_like(parameter, device=META), requires_grad=False
            )
        self.here = False

    def close(self) -> None:
        """Come to stay: nothing is in front of the module any more."""
        self.come()
        for undo in self._undo:
            undo()

    def _enter(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.come()
        return original(*args, **kwargs)


def _slots(module: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name, part, key) of each parameter, tied ones each time."""
    return [
        (f"{prefix}.{key}" if prefix else key, part, key)
        for prefix, part in module.named_modules(remove_duplicate=False)
        for key, parameter in part._parameters.items()
        if parameter is not None
    ]


def say_device(module: nn.Module, device: torch.device) -> None:
    """Let the module's `device` be the one that it runs on, wherever its parameters are."""
    cls = type(module)
    module.__class__ = type(
        cls.__name__,
        (cls,),
        {"device": property(lambda _self: device), "__module__": cls.__module__},
    )
