"""Which Linears choose among experts, and which weights of a denoiser are no Linears?

    routers(transformer)              # ("transformer_blocks.3.img_mlp.gate", ...)
    weights_besides(transformer)      # those of ...experts.gate_up_proj, 64 x 2048 x 2688, ...

A router's output is ranked: which experts see a token is decided by it. Quantized, it chooses other
experts, which is no small error.

Method. A router is a Linear that stands beside experts and has as many outputs as there are of
them, whatever it is called: Nucleus-Image's `gate` beside `experts`. It may lie in a module of its
own beside them (`router.layer`, `gate.wg`). Experts are a list of modules, or one module with 3-D
weights whose first axis counts them. Gates of gated MLPs (`gate_proj`) and of attention
(`to_gate_logits`) stand beside no experts. A router that is no Linear, such as HiDream's `MoEGate`,
is never quantized, and is listed among the other weights.

Weights besides Linears are those of matrix products: 3-D ones, and 2-D ones called `weight`, in
modules that are no Linears, convolutions, embeddings or norms. No format is chosen for them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sensitivity.core.fqns import role_of
from sensitivity.core.words import and_more

MENTIONED = 0.001
"""Part of a denoiser's weights from which those that are no Linears' are mentioned."""
BF16_BYTES = 2
EXPERTS = "expert"
"""What the names of experts have in them."""
COUNTS = (
    "num_experts",
    "n_experts",
    "num_routed_experts",
    "n_routed_experts",
    "num_local_experts",
    "moe_num_experts",
)
"""Attributes in which modules keep the number of their experts."""
_WITH_WEIGHTS_OF_THEIR_OWN = (
    nn.Linear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.conv._ConvNd,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightBeside:
    """A weight of matrix products that is no Linear's.

    Attributes:
        name: the parameter's name.
        shape: its axes.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


def routers(module: nn.Module) -> tuple[str, ...]:
    """The names of the Linears that choose among experts, in the order of `named_modules()`."""
    found: dict[str, None] = {}
    for name, parent in module.named_modules():
        counts = _counts_of_experts(parent)
        if not counts:
            continue
        for child_name, child in parent.named_children():
            if EXPERTS in child_name.lower() and not _has_one_linear(child):
                continue
            for inner, part in child.named_modules():
                if isinstance(part, nn.Linear) and part.out_features in counts and _is_near(inner):
                    found[".".join(filter(None, (name, child_name, inner)))] = None
    return tuple(found)


def weights_besides(module: nn.Module) -> tuple[WeightBeside, ...]:
    """The weights of matrix products that no Linear holds."""
    return tuple(
        WeightBeside(
            name=f"{name}.{key}" if name else key,
            shape=tuple(weight.shape),
        )
        for name, part in module.named_modules()
        if not isinstance(part, _WITH_WEIGHTS_OF_THEIR_OWN)
        for key, weight in part.named_parameters(recurse=False)
        if _is_of_products(key, weight)
    )


def values_of(module: nn.Module) -> int:
    """How many values all weights of a module hold."""
    return sum(weight.numel() for weight in module.parameters())


def describe_besides(weights: Sequence[WeightBeside], values: int) -> str:
    """What a user should know of the weights that are no Linears'; "" where they are next to none.

    Args:
        weights: of the denoisers.
        values: how many values all their weights hold.
    """
    own = sum(weight.values for weight in weights)
    if own < MENTIONED * values or not own:
        return ""
    first = max(weights, key=lambda weight: weight.values)
    roles = list(dict.fromkeys(role_of(weight.name) for weight in weights))
    return (
        f"{len(weights)} weights of matrix products are not Linears: they hold"
        f" {own * BF16_BYTES / 1e9:.3g} GB in bf16, {own / values:.1%} of the denoisers' weights"
        f" ({and_more(roles, most=3)}; the largest has"
        f" {' x '.join(map(str, first.shape))}); no format is chosen for them, and they stay bf16"
    )


def _has_one_linear(child: nn.Module) -> bool:
    """Whether a module that is called after experts may choose among them (`expert_gate`)."""
    if isinstance(child, nn.ModuleList | nn.ModuleDict):
        return False
    return sum(isinstance(part, nn.Linear) for part in child.modules()) == 1


def _is_near(inner: str) -> bool:
    """Whether a Linear is a child, or a child of a child; deeper ones are another MLP's."""
    return inner.count(".") == 0


def _counts_of_experts(parent: nn.Module) -> frozenset[int]:
    """How many experts stand below a module; none if there are none, or one."""
    counts = {
        count
        for name, child in parent.named_children()
        if EXPERTS in name.lower()
        for count in _counts(child)
    }
    if counts:
        counts |= {value for key in COUNTS if type(value := getattr(parent, key, None)) is int}
    return frozenset(count for count in counts if count > 1)


def _counts(experts: nn.Module) -> Iterator[int]:
    """How many experts a module may hold."""
    if isinstance(experts, nn.ModuleList | nn.ModuleDict):
        yield len(experts)
    yield from (value for key in COUNTS if type(value := getattr(experts, key, None)) is int)
    yield from (weight.shape[0] for weight in experts.parameters(recurse=False) if weight.ndim == 3)


def _is_of_products(key: str, weight: Tensor) -> bool:
    """Whether a parameter is the weight of a matrix product: 3-D, or 2-D and called `weight`."""
    if math.prod(weight.shape) == 0 or min(weight.shape, default=0) < 2:
        return False
    return weight.ndim == 3 or (weight.ndim == 2 and key == "weight")
