"""How is a component built from its config without memory for its weights?

`build_on_meta`: the class's own constructor runs, and every parameter lands on the meta device.

    module = build_on_meta(diffusers.AutoencoderKL, folder / "vae", real_elements=REAL_ELEMENTS)
    next(module.parameters()).device        # meta

Conventions. Parameters have the dtype that `from_pretrained` would give them: bf16, except for
modules that the class keeps in fp32. Buffers keep the values that the constructor computes, up to
`real_elements`. The module is in eval mode and needs no gradients. No weight file is opened. A
config may ask for more modules than any machine could build, so a constructor that makes more than
`MAX_TENSORS` tensors is stopped.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sensitivity.errors import PipelineError
from sensitivity.models.meta_tensors import META
from sensitivity.models.shape_mode import ShapeMode

MAX_TENSORS = 100_000
"""Tensors that one constructor makes at most; the largest models of 2026 have some 10,000."""


def build_on_meta(cls: Any, folder: Path, *, real_elements: float) -> nn.Module:
    """A module from the config in `folder`.

    Args:
        cls: a model class of diffusers or transformers.
        folder: the component's folder, with its `config.json`.
        real_elements: buffers with more elements go to meta, too; `math.inf` keeps all of them.

    Raises:
        PipelineError: the config asks for more than `MAX_TENSORS` tensors.
        Exception: whatever the class raises for a config that it refuses.
    """
    is_diffusers = hasattr(cls, "load_config")
    # a buffer that would go to meta is not computed in the first place
    lean = ShapeMode() if math.isfinite(real_elements) else nullcontext()
    with _default_dtype(torch.bfloat16), _no_init(), lean, _EmptyOnMeta(folder), torch.no_grad():
        if is_diffusers:
            module: Any = cls.from_config(cls.load_config(str(folder)))
        else:
            config = cls.config_class.from_pretrained(str(folder))
            module = cls._from_config(config, dtype=torch.bfloat16)
            module.tie_weights()  # transformers ties them only when it loads weights
    attribute = "_keep_in_fp32_modules" if is_diffusers else "_keep_in_fp32_modules_strict"
    fp32 = getattr(cls, attribute, None)
    _to_meta(module, {fp32} if isinstance(fp32, str) else set(fp32 or ()), real_elements)
    built: nn.Module = module.eval().requires_grad_(False)
    return built


def _to_meta(module: nn.Module, fp32_names: set[str], real_elements: float) -> None:
    """Replace each parameter by one on meta; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for prefix, child in module.named_modules():
        for name, parameter in child._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                dtype = parameter.dtype
                if parameter.is_floating_point():
                    is_fp32 = bool(fp32_names & {*prefix.split("."), name})
                    dtype = torch.float32 if is_fp32 else torch.bfloat16
                data = torch.empty(parameter.shape, dtype=dtype, device=META)
                made[id(parameter)] = nn.Parameter(data, requires_grad=False)
            child._parameters[name] = made[id(parameter)]
        for name, buffer in child._buffers.items():
            if buffer is not None and buffer.numel() > real_elements:
                child._buffers[name] = buffer.to(META)


class _EmptyOnMeta(TorchFunctionMode):
    """Makes uninitialised and random tensors on meta, which is how constructors make weights.

    Everything else that a constructor computes is real.
    """

    makers = (torch.empty, torch.rand, torch.randn)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.made = folder, 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        makes = func in self.makers
        self.made += makes
        if makes and self.made > MAX_TENSORS:  # what ends contexts comes through here, too
            raise PipelineError(
                f"{self.folder / 'config.json'} asks for more than {MAX_TENSORS} tensors; expected"
                " a model that can be built: correct the number of its layers or blocks"
            )
        if makes and kwargs.get("device") is None:
            kwargs["device"] = META
        return func(*args, **kwargs)


def _no_init() -> Any:
    """The context of transformers in which constructors do not initialise their weights."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # versions of transformers without it
        return nullcontext()
    return no_init_weights()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
