"""Which parts of a denoiser does torch compile separately, and how many graphs are that?

This is regional compilation, for measuring times and for searching.

    compile_denoiser(denoiser, compile_mode="default")
    with CompiledRegions(denoiser):     # compiled inside the context, eager outside
        pipeline(...)
    with running_eagerly():             # what is compiled already, without its graphs
        pipeline(...)

Regions are the modules whose classes `_repeated_blocks` names, as in diffusers'
`compile_repeated_blocks(fullgraph=True)`. A denoiser without that list has the blocks that its FQNs
number as regions (`blocks.0`, `blocks.1`, ...), and one without such blocks is a single region.
Several denoisers are treated one by one.

Recompile limit. torch makes one graph for each distinct pattern of native formats among the blocks
of a class, and gives up at its limit (`torch._dynamo.config.recompile_limit`, 8 for each class).
`check_recompile_limit` refuses too many patterns before anything is compiled. Inputs with other
strides may cost one more graph; if that exceeds the limit, the same error is raised while the
denoiser runs. Linears that a `Switch` holds make one graph, whatever their formats are.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.core.fqns import block_of
from sensitivity.errors import UserError
from sensitivity.models.denoisers import Denoisers, parts_of

SEARCH_LIMIT = 64
"""Graphs that torch may make of one block class in a search. It needs one for each shape of a
batch, which are far fewer.
"""


def regions_of(denoiser: nn.Module) -> tuple[str, dict[str, nn.Module]]:
    """The regions of a denoiser.

    Returns:
        A description for people, and {FQN: module}. The FQN of a whole denoiser is "", or its
        component's name where there are several.
    """
    if isinstance(denoiser, Denoisers):
        found = {name: regions_of(part) for name, part in parts_of(denoiser).items()}
        regions = {
            f"{name}.{fqn}" if fqn else name: region
            for name, (_, inner) in found.items()
            for fqn, region in inner.items()
        }
        return ", ".join(dict.fromkeys(described for described, _ in found.values())), regions
    repeated = tuple(getattr(denoiser, "_repeated_blocks", None) or ())
    regions = {
        fqn: child
        for fqn, child in denoiser.named_modules()
        if fqn and type(child).__name__ in repeated
    }
    if regions:
        return f"repeated blocks ({_classes(regions)})", regions
    names = dict.fromkeys(
        block_of(fqn) for fqn, child in denoiser.named_modules() if isinstance(child, nn.Linear)
    )
    outer = [
        name
        for name in names
        if name and not any(other and name.startswith(f"{other}.") for other in names)
    ]
    regions = {
        name: denoiser.get_submodule(name)
        for name in outer
        if not isinstance(denoiser.get_submodule(name), nn.Linear)
    }
    if regions:
        return f"numbered blocks ({_classes(regions)})", regions
    return f"the whole {type(denoiser).__name__}", {"": denoiser}


def _classes(regions: Mapping[str, nn.Module]) -> str:
    return ", ".join(dict.fromkeys(type(region).__name__ for region in regions.values()))


def count_block_patterns(denoiser: nn.Module, formats: Mapping[str, FormatName]) -> dict[str, int]:
    """{class of regions: number of distinct format patterns among them}.

    torch makes so many graphs of that class. Linears that `formats` does not name are bf16.
    """
    patterns: dict[str, set[tuple[tuple[str, FormatName], ...]]] = {}
    for fqn, region in regions_of(denoiser)[1].items():
        prefix = f"{fqn}." if fqn else ""
        linears = [name for name, child in region.named_modules() if isinstance(child, nn.Linear)]
        pattern = tuple(
            (name, FormatName(formats.get(prefix + name, FormatName.BF16))) for name in linears
        )
        patterns.setdefault(type(region).__name__, set()).add(pattern)
    return {kind: len(found) for kind, found in patterns.items()}


def check_recompile_limit(patterns: Mapping[str, int], limit: int | None = None) -> None:
    """Raise UserError if a class has more patterns than torch compiles graphs of one class.

    Args:
        patterns: as `count_block_patterns` gives them.
        limit: the most graphs; None means torch's own limit.
    """
    allowed = default_recompile_limit() if limit is None else limit
    kind, found = max(patterns.items(), key=lambda item: item[1], default=("", 0))
    if found > allowed:
        raise limit_error(
            f"{found} distinct format patterns among the blocks of {kind}",
            allowed,
            max(found, allowed) + 1,
        )


@contextmanager
def running_eagerly() -> Iterator[None]:
    """Run compiled modules eagerly inside.

    If torch._dynamo was never imported, nothing is compiled, and importing it would cost seconds.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def default_recompile_limit() -> int:
    """How many graphs torch makes of one code object before it gives up, as it is set now."""
    import torch._dynamo.config

    return int(torch._dynamo.config.recompile_limit)


def limit_error(found: str, allowed: int, enough: int) -> UserError:
    """The error for more graphs than torch's recompile limit.

    Args:
        found: what was found, with its number.
        allowed: the limit.
        enough: a limit that would do.
    """
    return UserError(
        f"{found}; expected at most {allowed}, torch's recompile limit: set `recompile_limit` to"
        f" {enough} (each graph costs compile time), or search with `granularity` group and fewer"
        " depth bands, which makes fewer patterns"
    )


def compile_denoiser(
    denoiser: nn.Module, *, compile_mode: CompileMode, backend: Any = "inductor"
) -> str:
    """Compile the denoiser's regions in place. `restore_denoiser` undoes it.

    Shapes are static. The caller raises torch's recompile limit where it needs to, because it is a
    setting of the process (`latency.timing.torch_settings.preserved_settings`).

    Args:
        denoiser: one denoiser, or several that are joined.
        compile_mode: as `torch.compile` takes it.
        backend: as `torch.compile` takes it.

    Returns:
        What was compiled, for people.
    """
    described, regions = regions_of(denoiser)
    whole = list(parts_of(denoiser).values())
    mode = None if compile_mode == "default" or backend != "inductor" else compile_mode
    for region in regions.values():
        region.compile(fullgraph=region not in whole, dynamic=False, backend=backend, mode=mode)
        if compile_mode == "reduce-overhead":
            region._compiled_call_impl = _with_cloned_outputs(
                region._compiled_call_impl, begins_step=region in whole
            )
    return described


def compile_whole(
    denoiser: nn.Module, *, compile_mode: CompileMode, backend: Any = "inductor"
) -> str:
    """Compile each denoiser as one region, whatever blocks it has; else as `compile_denoiser`."""
    parts = parts_of(denoiser).values()
    mode = None if compile_mode == "default" or backend != "inductor" else compile_mode
    for part in parts:
        part.compile(dynamic=False, backend=backend, mode=mode)
        if compile_mode == "reduce-overhead":
            part._compiled_call_impl = _with_cloned_outputs(
                part._compiled_call_impl, begins_step=True
            )
    return ", ".join(f"the whole {type(part).__name__}" for part in parts)


def restore_denoiser(denoiser: nn.Module) -> None:
    """Make the denoiser run eagerly again."""
    for module in (*regions_of(denoiser)[1].values(), *parts_of(denoiser).values()):
        module._compiled_call_impl = None


def _with_cloned_outputs(call: Any, *, begins_step: bool) -> Callable[..., object]:
    """The call with copies of its outputs: the next replay of a CUDA graph overwrites them."""

    def cloned(*args: object, **kwargs: object) -> object:
        if begins_step:
            begin_step()
        return pytree.tree_map_only(Tensor, torch.clone, call(*args, **kwargs))

    return cloned


def begin_step(*_: object) -> None:
    """Tell torch's CUDA graph trees that outputs of earlier denoiser calls are not needed."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def compiled_graphs() -> int:
    """How many graphs torch has compiled in this process."""
    import torch._dynamo.utils

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def is_compile_error(error: BaseException) -> bool:
    """Whether torch's compiler raised the error.

    It cannot compile everything that runs eagerly, for example a router's choice of experts for
    each token.
    """
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


class CompiledRegions:
    """A context in which a denoiser's regions are compiled. Outside, the denoiser runs eagerly.

    It may be entered any number of times, and compiled graphs are kept. Compiling happens at the
    first call with a new shape. Inside, torch's recompile limit is `SEARCH_LIMIT` for the process.

    Attributes:
        described: what is compiled, for people.
    """

    def __init__(self, denoiser: nn.Module, *, backend: Any = "inductor") -> None:
        self._regions = regions_of(denoiser)[1].values()
        self.described = compile_denoiser(denoiser, compile_mode="default", backend=backend)
        self._calls = [region._compiled_call_impl for region in self._regions]
        self._limit = SEARCH_LIMIT
        self._set([None] * len(self._calls))

    def __enter__(self) -> "CompiledRegions":
        self._set(self._calls)
        self._swap_limit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._set([None] * len(self._calls))
        self._swap_limit()

    def _set(self, calls: list[Any]) -> None:
        for region, call in zip(self._regions, calls, strict=True):
            region._compiled_call_impl = call

    def _swap_limit(self) -> None:
        import torch._dynamo.config

        dynamo: Any = torch._dynamo.config
        dynamo.recompile_limit, self._limit = self._limit, dynamo.recompile_limit
