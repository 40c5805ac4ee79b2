"""Did every Linear that was quantized run quantized?

What patches modules can also hide a quantized weight: a report would say 66 quantized, and the
picture would be bf16's. So it is tried, in two steps.

1. `prove_alone` calls each Linear that carries something (`formats.patches.describe`) once by
   itself, with one row, through all that stands on it. A Linear that carries nothing runs the
   forward of its class, and needs no trial.
2. `prove_in_first_calls` looks at the first call of each denoiser. It sees what a Linear alone
   cannot show: a module that was replaced since, a graph that was recorded before.

    proof = Proof(linears=("a", "b"), alone=prove_alone(linears, is_native=False))
    prove_in_first_calls(denoiser, proof, emulated(switch, proof.linears))
    pipeline(prompt)                # RecipeError if one of them was called and ran in bf16
    proof.ran, proof.uncalled       # ("a",), ("b",)

A Linear that is tried alone does not run its product, since a native kernel may not take one row.
Known values stand in its place, and they must decide what comes out: a hook may also put a bf16
product of its own in the place of the quantized one.

Where kernels are native, the weight is looked at again after the first call; which Linears were
called is not known then.

What it does not do: check numbers. That the products are right is for the tests of the formats.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sensitivity.core.fqns import is_in
from sensitivity.core.words import counted
from sensitivity.errors import RecipeError
from sensitivity.formats.edge_weights import is_at_edge, quantized_weight
from sensitivity.formats.patches import describe, is_recording_order
from sensitivity.formats.switch import Switch, Unquantized
from sensitivity.formats.switchable_linear import SwitchableLinear
from sensitivity.models.compiled_regions import running_eagerly
from sensitivity.models.denoisers import parts_of

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Proof:
    """What is known of the Linears that were quantized. It grows with the first call of each
    denoiser.

    Attributes:
        linears: all that were quantized.
        is_native: whether by torchao's kernels.
        alone: those that carry hooks or patches, and ran quantized when they were called alone.
        ran: those that ran quantized in the first call of their denoiser, or natively those that
            had torchao's weight after it.
        uncalled: those that the first call of their denoiser did not reach.
    """

    linears: tuple[str, ...]
    is_native: bool = False
    alone: tuple[str, ...] = ()
    ran: tuple[str, ...] = field(default=(), init=False)
    uncalled: tuple[str, ...] = field(default=(), init=False)

    @property
    def pending(self) -> tuple[str, ...]:
        """Those whose denoiser has not been called yet."""
        seen = {*self.ran, *self.uncalled}
        return tuple(fqn for fqn in self.linears if fqn not in seen)

    def __str__(self) -> str:
        ran = "kept torchao's weight" if self.is_native else "ran quantized"
        parts = [f"{len(self.ran)} of {len(self.linears)} {ran} in a first call"]
        if self.uncalled:
            parts.append(f"uncalled: {counted(self.uncalled, most=3)}")
        if self.pending:
            parts.append(f"{len(self.pending)} not called yet")
        if self.alone:
            parts.append(f"{len(self.alone)} with hooks or patches ran quantized alone")
        return "; ".join(parts)


@torch.no_grad()
def prove_alone(linears: Mapping[str, nn.Linear], *, is_native: bool) -> tuple[str, ...]:
    """Call each Linear that carries something once, with one row.

    Args:
        linears: {FQN: Linear} of those that were quantized.
        is_native: whether torchao's weights are in place; else the Linears are switchable.

    Returns:
        The FQNs of those that ran quantized. Those that cannot be called alone are left to the
        first call of their denoiser.

    Raises:
        RecipeError: some ran in bf16; the message names them and what stands on them.
    """
    proven, wrong = list[str](), list[str]()
    with running_eagerly():
        for fqn, linear in linears.items():
            if not describe(linear) or is_recording_order(linear):
                continue
            try:
                ran = _runs_quantized(linear, is_native=is_native)
            except Exception as error:  # whatever a patch raises without its model around it
                log.debug("%s cannot be called alone: %s", fqn, error)
                continue
            (proven if ran else wrong).append(fqn)
    if wrong:
        raise RecipeError(_in_bf16(wrong, describe(linears[wrong[0]])))
    return tuple(proven)


Look = Callable[[], Unquantized | None]
"""Which Linears have not run quantized so far; None where another skip-list was set since."""


def emulated(switch: Switch, fqns: Iterable[str]) -> Look:
    """What is seen of Linears that a switch has just given formats."""
    linears = {fqn: cast(SwitchableLinear, switch.linears[fqn]) for fqn in fqns}
    applied = {fqn: linear.calls for fqn, linear in linears.items()}

    def look() -> Unquantized | None:
        if any(getattr(linears[fqn], "calls", None) is not calls for fqn, calls in applied.items()):
            return None
        return switch.unquantized()

    return look


def native(denoiser: nn.Module, linears: Mapping[str, nn.Linear]) -> Look:
    """What is seen of Linears that torchao has quantized."""

    def look() -> Unquantized | None:
        modules = set(denoiser.modules())
        replaced = [fqn for fqn, linear in linears.items() if linear not in modules]
        plain = [
            fqn
            for fqn, linear in linears.items()
            if fqn not in replaced and type(quantized_weight(linear).data) is Tensor
        ]
        return Unquantized(
            uncalled=(),
            bypassed=tuple(plain),
            replaced=tuple(replaced),
            at_edges=tuple(fqn for fqn, linear in linears.items() if is_at_edge(linear)),
        )

    return look


def prove_in_first_calls(denoiser: nn.Module, proof: Proof, look: Look) -> None:
    """Have the first call of each denoiser raise RecipeError if a Linear ran in bf16, and note in
    `proof` what ran and what was not reached.

    A denoiser that is compiled as a whole is not looked at: a hook would break its graph.
    """
    for name, part in parts_of(denoiser).items():
        own = frozenset(fqn for fqn in proof.linears if not name or is_in(fqn, name))
        if own and part._compiled_call_impl is None:
            hook = _FirstCall(own, proof, look)
            hook.handle = part.register_forward_hook(hook)


class _FirstCall:
    """A hook on a denoiser that takes itself off after the first call."""

    handle: Any

    def __init__(self, own: frozenset[str], proof: Proof, look: Look) -> None:
        self.own, self.proof, self.look = own, proof, look

    def __reduce__(self) -> Any:
        """In a copy of the model nothing is looked at: `look` sees the Linears of this one."""
        return _make_idle, ()

    def describe(self, part: nn.Module, fqn: str) -> str:
        """What stands on a Linear of `part`; `fqn` may begin with the component's name."""
        modules = dict(part.named_modules())
        found = modules.get(fqn, modules.get(fqn.partition(".")[2]))
        return "" if found is None else describe(found)

    def __call__(self, part: nn.Module, *_: object) -> None:
        if torch.compiler.is_compiling():
            return  # compiled as a whole since; what follows would break its graph
        found = self.look()
        if found is not None and any(fqn in self.own for fqn in found.at_edges):
            return  # an edge step of a step policy, which runs at higher precision: look again
        self.handle.remove()
        if found is None:
            return
        replaced, bypassed, uncalled = (
            [fqn for fqn in fqns if fqn in self.own]
            for fqns in (found.replaced, found.bypassed, found.uncalled)
        )
        if replaced:
            raise RecipeError(
                f"found quantized Linears that are no part of the {type(part).__name__} any more:"
                f" {counted(replaced)}; expected those that the recipe was applied to: apply it"
                " after modules are replaced"
            )
        if bypassed:
            raise RecipeError(_in_bf16(bypassed, self.describe(part, bypassed[0])))
        kind = type(part).__name__
        if len(uncalled) == len(self.own):
            raise RecipeError(
                f"found that a call of the {kind} reached none of its {len(uncalled)} quantized"
                " Linears; expected it to call them: apply the recipe before the model is captured"
                " (CUDA graphs, torch.export) or its layers are fused"
            )
        if uncalled:
            log.warning("a call of the %s did not reach Linears: %s", kind, counted(uncalled))
        self.proof.uncalled += tuple(uncalled)
        self.proof.ran += tuple(
            fqn for fqn in self.proof.linears if fqn in self.own and fqn not in set(uncalled)
        )


def _make_idle() -> Callable[..., None]:
    return _idle


def _idle(*_: object) -> None:
    """A hook that does nothing."""


class _Marked(TorchFunctionMode):
    """Inside, `F.linear` with a quantized weight computes nothing and returns `mark`.

    Args:
        mark: (N,).
    """

    def __init__(self, mark: Tensor) -> None:
        super().__init__()
        self.mark, self.products = mark, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not nn.functional.linear:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
        if type(given["weight"].data) is Tensor:
            return func(*args, **(kwargs or {}))
        return self.product(given["input"])

    def product(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """x: (..., K). Returns (..., N)."""
        self.products += 1
        return self.mark.to(x).expand(*x.shape[:-1], -1).clone()


def _runs_quantized(linear: nn.Linear, *, is_native: bool) -> bool:
    """Whether a call computes the quantized product, and what comes out depends on it.

    In place of the product stand two vectors, one after the other. Where both calls return the
    same, a hook or patch has put another result in its place.
    """
    n = linear.out_features
    marks = [_Marked(torch.linspace(*ends, n)) for ends in ((-1, 2), (2, -3))]
    call = _call_natively if is_native else _call_emulated
    first, second = (call(linear, mark) for mark in marks)
    is_hidden = isinstance(first, Tensor) and torch.equal(first, second)
    return not is_hidden and all(mark.products for mark in marks)


def _call_natively(linear: nn.Linear, mark: _Marked) -> Any:
    with mark:
        return linear(_one_row(linear))


def _call_emulated(linear: nn.Linear, mark: _Marked) -> Any:
    calls = cast(SwitchableLinear, linear).calls
    patched = calls.patched
    vars(linear)["product"] = mark.product
    try:
        return linear(_one_row(linear))
    finally:
        del vars(linear)["product"]
        calls.patched = patched


def _one_row(linear: nn.Linear) -> Tensor:
    """(1, K) of ones in bf16 where the Linear expects its input."""
    device = linear.weight.device
    if device.type == "meta":
        hook = getattr(linear, "_hf_hook", None)
        device = torch.device(getattr(hook, "execution_device", None) or "cpu")
    return torch.ones(1, linear.in_features, dtype=torch.bfloat16, device=device)


def _in_bf16(fqns: list[str], patch: str) -> str:
    on = f"; on the first stands {patch}" if patch else ""
    return (
        f"found Linears that run in bf16 although they were quantized: {counted(fqns)}{on};"
        " expected each in its format: take off what patches them, and load the model again before"
        " you apply the recipe"
    )
