"""The denoisers that `runtimes.py` runs, with none and with all Linears quantized, their inputs.

model = Model("sdxl", "cuda", FormatName.FP8)
model.denoiser("all")(*model.args, **model.kwargs)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.core.format_name import FormatName
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.timing.tensors import materialize
from sensitivity.models.random_weights import random_component
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec


class Model:
    """A denoiser with none and with all Linears quantized, and the inputs of its call."""

    def __init__(self, name: str, device: str, format: FormatName) -> None:
        self.name, self.device, self.format = name, torch.device(device), format
        self._made: dict[str, nn.Module] = {}
        self.outputs: dict[str, Tensor] = {}
        if name.startswith("small-"):
            self.kwargs, self._make = small_model(device)
            return
        spec = resolve_spec(name)
        call = run_shapes(spec, batch_size=1).calls[0]
        self.kwargs = materialize(call.kwargs, self.device)
        self.args = materialize(call.args, self.device)
        self._make = lambda: random_component(spec, device=device)

    args: tuple[Any, ...] = ()

    def halved(self) -> dict[str, Any]:
        """The named inputs with half of their values."""
        return pytree.tree_map_only(Tensor, lambda x: x / 2 if x.ndim > 2 else x, self.kwargs)

    def difference(self, which: str, output: Tensor) -> float:
        """How far an output is from the first one of this list, relative to its norm."""
        first = self.outputs.setdefault(which, output)
        return float((output - first).norm() / first.norm())

    def denoiser(self, which: str) -> nn.Module:
        """The denoiser of a list."""
        if which not in self._made:
            made = self._make().eval()
            if which == "all":
                formats = dict.fromkeys(quantizable(made, self.format), self.format)
                if self.device.type == "cuda":
                    quantize_native(made, formats)
                else:
                    quantize_on_cpu(made, formats)
            self._made[which] = made
        return self._made[which]


def quantizable(denoiser: nn.Module, format: FormatName) -> list[str]:
    """FQNs of the Linears that the format takes."""
    known = get_format(format)
    return [
        fqn
        for fqn, child in denoiser.named_modules()
        if isinstance(child, nn.Linear)
        and known.refusal(k=child.in_features, n=child.out_features, dtype=child.weight.dtype)
        is None
    ]


def quantize_on_cpu(denoiser: nn.Module, formats: dict[str, FormatName]) -> None:
    """FP8 weights on a CPU, which torchao's own function refuses: it exercises the script."""
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import PerRow
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference
    from torchao.quantization.quantize_.workflows.float8 import float8_tensor

    how = {
        "granularity": PerRow(),
        "mm_config": Float8MMConfig(use_fast_accum=True),
        "kernel_preference": KernelPreference.TORCH,
    }
    rows = float8_tensor.QuantizeTensorToFloat8Kwargs(torch.float8_e4m3fn, **how)
    for fqn in formats:
        linear = denoiser.get_submodule(fqn)
        weight = float8_tensor.Float8Tensor.from_hp(linear.weight, **how, act_quant_kwargs=rows)
        linear.weight = nn.Parameter(weight, requires_grad=False)


def small_model(device: str) -> tuple[dict[str, Any], Callable[[], nn.Module]]:
    """Inputs and maker of a small UNet."""
    from diffusers import UNet2DConditionModel

    def make() -> nn.Module:
        return UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            transformer_layers_per_block=2,
            use_linear_projection=True,
        ).to(device, torch.bfloat16)

    sizes = {"sample": (1, 4, 16, 16), "encoder_hidden_states": (1, 8, 32)}
    inputs = {
        key: torch.randn(size, dtype=torch.bfloat16, device=device) for key, size in sizes.items()
    }
    return inputs | {"timestep": torch.full((1,), 10.0, device=device)}, make
