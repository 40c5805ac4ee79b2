"""How does a module take up device memory only while it is used?

`OnDemandModule` loads a module's parameters when the module is called, and unloads them when it is
told to.

    vae = OnDemandModule(pipe.vae, device="cuda", source=host_copy(pipe.vae))
    pipe.vae.decode(latents)        # its parameters are loaded first
    vae.unload()                    # their memory is free again

An unloaded module keeps its submodules, its buffers and its configuration, and its parameters are
on meta. Its `device` is still the one that it runs on, because pipelines ask it where to put
inputs. Parameters are loaded from pinned host memory (`host_copy`), or made again (`source_from`).

What it does not do: load a part of a module, or notice calls other than those that
`entry_points.entry_points` lists.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.models.entry_points import entry_points, intercept
from sensitivity.models.meta_tensors import META

Source = Callable[[], Mapping[str, Tensor]]
"""Gives {name of each parameter: its values} on any device. A tied parameter appears under each of
its names.
"""


def host_copy(module: nn.Module) -> Source:
    """A source that keeps the module's values in host memory, pinned where there is CUDA."""
    values = {name: p.detach().cpu() for name, p in module.named_parameters(remove_duplicate=False)}
    if torch.cuda.is_available():
        values = {name: value.pin_memory() for name, value in values.items()}
    return lambda: values


def source_from(make: Callable[[], nn.Module]) -> Source:
    """A source that makes the module anew each time, and keeps nothing."""
    return lambda: {name: p.detach() for name, p in make().named_parameters(remove_duplicate=False)}


class OnDemandModule:
    """A module whose parameters are on the device while it is used.

    Making one moves the module's buffers there and leaves its parameters where they are.

    Args:
        module: the component.
        device: where it runs.
        source: where its parameters are loaded from.
        loaded: whether its parameters are on the device already.

    Attributes:
        module: the component.
        source: as given; it may be replaced.
        loaded: whether its parameters are on the device.
    """

    def __init__(
        self, module: nn.Module, *, device: str, source: Source, loaded: bool = False
    ) -> None:
        self.module, self.source, self.loaded = module, source, loaded
        self.device = torch.device(device)
        for part in module.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = buffer.to(self.device)
        report_device(module, self.device)
        self._undo = [
            intercept(part, method, self._call) for _, part, method in entry_points(module)
        ]

    def load(self) -> None:
        """Put the parameters on the device, unless they are there."""
        if self.loaded:
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
        self.loaded = True

    def unload(self) -> None:
        """Free the parameters' memory."""
        for _, part, key in _slots(self.module):
            parameter = part._parameters[key]
            assert parameter is not None
            part._parameters[key] = nn.Parameter(
                torch.empty_like(parameter, device=META), requires_grad=False
            )
        self.loaded = False

    def close(self) -> None:
        """Load the parameters for good, and intercept no calls any more."""
        self.load()
        for undo in self._undo:
            undo()

    def _call(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.load()
        return original(*args, **kwargs)


def _slots(module: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name, part, key) of each parameter; of a tied one, each place where it is."""
    return [
        (f"{prefix}.{key}" if prefix else key, part, key)
        for prefix, part in module.named_modules(remove_duplicate=False)
        for key, parameter in part._parameters.items()
        if parameter is not None
    ]


def report_device(module: nn.Module, device: torch.device) -> None:
    """Let `module.device` be the device that it runs on, wherever its parameters are."""
    cls = type(module)
    module.__class__ = type(
        cls.__name__,
        (cls,),
        {"device": property(lambda _self: device), "__module__": cls.__module__},
    )
