"""Which calls of a pipeline's components do the same work, so that one of them need not run?

`ComponentCalls` stands between a pipeline and its components. It runs the first call of each
signature and repeats the others: fresh meta outputs, and the same counts added again. So 50 steps
cost one.

    calls = ComponentCalls(mode, recorder, ["transformer"])
    calls.watch("transformer", pipe.transformer)
    pipe(prompt="...")
    calls.seen                          # one `SeenCall` a signature, with its number of calls
    calls.counts("transformer", pipe.transformer)

The signature of a call is what decides its work: shapes, dtypes and flags of its arguments, and the
values of masks. Other values do not matter. A call whose signature cannot be told is always run.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.models.compiled_regions import regions_of
from sensitivity.models.entry_points import entry_points, intercept, reads_text
from sensitivity.models.meta_tensors import is_meta, tensors_in, to_meta
from sensitivity.models.operation_counts import Tally
from sensitivity.models.shape_mode import ShapeMode
from sensitivity.shapes.census import AttentionShape, ComponentCounts
from sensitivity.shapes.recorder import LinearRecorder

MASK_ELEMENTS = 2**16
"""The most elements of a tensor of integers whose values are part of a signature."""


@dataclass(kw_only=True)
class SeenCall:
    """A call that was run, with all that repeat it.

    Attributes:
        args: positional arguments, as they came.
        kwargs: keyword arguments, as they came.
        forward_of: the component, if this was a call of its own forward; else None.
        counted: what its operations do.
        rows: {FQN: {M: calls}} of the Linears that it called.
        outputs: what it returned.
        calls: how often it was called.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    forward_of: str | None
    counted: Tally
    rows: dict[str, Counter[int]]
    outputs: Any = None
    calls: int = 1


class ComponentCalls:
    """All calls of the watched components of one run.

    Args:
        mode: counts operations.
        recorder: sees the Linears of the components in `profiled`.
        profiled: names of the components whose Linears are recorded.

    Attributes:
        seen: the calls that were run, in order.
        calls: {component: how often it was called}.
        text_only: {component: whether it was given nothing but token ids}.
        failed_inside: whether a component was entered and not left.
    """

    def __init__(
        self, mode: ShapeMode, recorder: LinearRecorder, profiled: Collection[str]
    ) -> None:
        self.mode, self.recorder, self.profiled = mode, recorder, profiled
        self.seen: list[SeenCall] = []
        self.calls: Counter[str] = Counter()
        self.text_only: dict[str, bool] = {}
        self.failed_inside = False
        self._known: dict[Any, SeenCall] = {}
        self._latest: dict[str, None] = {}
        self._regions: dict[str, tuple[str, ...]] = {}

    @property
    def latest(self) -> list[str]:
        """Names of the called components, by their latest calls."""
        return list(self._latest)

    @property
    def progress(self) -> str:
        """How far the run got, in words for messages."""
        done = ", ".join(f"{name} {calls} x" for name, calls in self.calls.items()) or "none"
        return f"components called: {done}; {self.recorder.progress}"

    def watch(self, component: str, part: nn.Module) -> None:
        """Answer all calls of a component from now on: of its methods, and of the forwards of its
        parts that a pipeline may call alone.
        """
        for _, child, method in entry_points(part):
            is_whole = method == "forward" and child is part
            key = (component, id(child), method)
            intercept(child, method, partial(self._enter, key, component if is_whole else None))
        if component in self.profiled:
            self._regions[component] = tuple(regions := regions_of(part)[1])
            for region in regions.values():
                self._count_inside(component, region)

    def counts(self, component: str, part: nn.Module) -> ComponentCounts:
        """The census of a component."""
        tally = self.mode.tally.get(component, Counter())
        shapes = []
        for key, calls in tally.items():
            if isinstance(key, tuple):
                _, batch, heads, q_len, kv_len, head_dim = key
                shape = AttentionShape(
                    batch=batch,
                    heads=heads,
                    q_len=q_len,
                    kv_len=kv_len,
                    head_dim=head_dim,
                    calls=calls,
                )
                shapes.append(shape)
        return ComponentCounts(
            component=component,
            calls=self.calls[component],
            attention=tuple(sorted(shapes, key=lambda shape: -shape.flops)),
            regions=self._regions.get(component, ()),
            **{key: value for key, value in tally.items() if isinstance(key, str)},
            weight_bytes=sum(p.numel() * p.element_size() for p in part.parameters()),
            peak_activation_bytes=self.mode.peak_bytes[component],
        )

    def _count_inside(self, component: str, region: nn.Module) -> None:
        """Count the kernels of a region that is compiled, besides all others."""
        before = list[int]()

        def enter(*_: object) -> None:
            before.append(self.mode.tally[component]["kernels"])

        def leave(*_: object) -> None:
            tally = self.mode.tally[component]
            tally["region_kernels"] += tally["kernels"] - before.pop()

        region.register_forward_pre_hook(enter)
        region.register_forward_hook(leave)

    def _enter(
        self,
        entry: tuple[str, int, str],
        forward_of: str | None,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run or repeat one call of an entry point; calls inside of a component are run."""
        component = entry[0]
        if self.mode.component is not None:
            return original(*args, **kwargs)
        self._note_call(component, args, kwargs)
        signature = signature_of((args, kwargs))
        known = None if signature is None else self._known.get((entry, signature))
        if known is not None:
            return self._repeat(component, known)
        seen = SeenCall(args=args, kwargs=kwargs, forward_of=forward_of, counted=Counter(), rows={})
        self.seen.append(seen)
        out = self._run(component, seen, original)
        if signature is not None:
            self._known[entry, signature] = seen
        return out

    def _note_call(self, component: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls[component] += 1
        only_text = self.text_only.get(component, True)
        self.text_only[component] = only_text and reads_text(tensors_in([args, kwargs]))
        self._latest.pop(component, None)
        self._latest[component] = None

    def _run(self, component: str, seen: SeenCall, original: Callable[..., Any]) -> Any:
        is_profiled = component in self.profiled
        before = Counter(self.mode.tally.get(component, Counter()))
        rows = self.recorder.snapshot() if is_profiled else {}
        self.failed_inside = True
        with self.mode.counting(component, (seen.args, seen.kwargs)):
            out = original(*seen.args, **seen.kwargs)
        self.failed_inside = False
        seen.counted = self.mode.tally[component] - before
        seen.rows = self.recorder.since(rows) if is_profiled else {}
        seen.outputs = pytree.tree_map(_fresh, out)
        return out

    def _repeat(self, component: str, seen: SeenCall) -> Any:
        seen.calls += 1
        self.mode.tally[component].update(seen.counted)
        self.recorder.add(seen.rows)
        return pytree.tree_map(_fresh, seen.outputs)


def signature_of(value: Any) -> Any:
    """What two calls with the same work have in common, hashable; None where that cannot be told.

    Numbers of type float never matter. Values of tensors matter where they are masks: integers or
    flags, of more than one axis (timesteps have one), and no more than `MASK_ELEMENTS`.
    """
    if isinstance(value, Tensor):
        is_mask = (
            not is_meta(value)
            and value.ndim > 1
            and value.numel() <= MASK_ELEMENTS
            and not (value.is_floating_point() or value.is_complex())
        )
        content = value.numpy().tobytes() if is_mask else None
        return "tensor", tuple(value.shape), value.dtype, content
    if isinstance(value, float):
        return "float"
    if value is None or isinstance(value, bool | int | str | torch.dtype | torch.device):
        return type(value).__name__, value
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, list | tuple):
        parts = tuple(signature_of(part) for part in value)
        return None if any(part is None for part in parts) else (type(value).__name__, parts)
    return None


def _fresh(x: Any) -> Any:
    """A new tensor like x: meta, or with the same values. Anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    return to_meta(x) if is_meta(x) else x.clone()
