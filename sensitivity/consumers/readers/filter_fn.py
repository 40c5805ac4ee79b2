"""What does a Python `filter_fn` choose?

`module:function` or `path/to/file.py:function`, called as torchao calls it. **It runs that code.**

    listed = FilterFnReader(allow_code=True).read("my_filters.py:skip_small")
    listed.assign(tree, quantized=FormatName.NVFP4)

Rule, of `quantize_(model, config, filter_fn=f)`; torchao 0.18 was read
(`quantization/quant_api.py`: `_replace_with_custom_fn_if_matches_filter`) and is run in tests:
`f(module, fqn)` for every module, with the name inside the component; true means quantize.

Nothing is imported unless the reader was made with `allow_code=True`; without it `read` says what
to do. Code that is allowed can do whatever the user can: allow it for files that you wrote or read.

Convention. For a Linear the function is given an `nn.Linear` of the true K and N on the meta
device, bf16, with a bias unless the tree knows better; it has no parent, no values and no
attributes beside those of an `nn.Linear`. What it prints goes to stderr. For a module that Linears
lie in it is given a bare `nn.Module`; true there is an error, since torchao fails on it. A function
that asks for more than that stops with an error that names the module. Norms, convolutions and
activations are not asked.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.torchao import containers
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterFnList(ConsumerList):
    """A function in place of entries.

    Attributes:
        function: (module, FQN inside the component) -> whether to quantize.
        source: how the user named it.
    """

    function: Callable[[Any, str], object]
    source: str

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, FormatName]:
        """{FQN: `quantized` where the function says so, else bf16}.

        Raises:
            PatternError: the function failed on a Linear, or K and N of one are not known.
        """
        import torch

        found: dict[str, FormatName] = {}
        for name in containers(map(tree.inside, tree.fqns)):
            if self._ask(torch.nn.Module(), name, f"the module {name!r}, no Linear"):
                raise PatternError(
                    f"found that {self.source} chooses the module {name!r}, which is no Linear:"
                    " torchao's quantize_ fails there ('no attribute weight'); allowed are"
                    " functions that choose Linears only; begin with isinstance(module, nn.Linear)"
                )
        for fqn in tree.fqns:
            if fqn not in tree.shapes:
                raise PatternError(
                    f"found no K and N of {fqn}, which {self.source} may look at; allowed are"
                    " models whose shapes are known: profile it first"
                )
            k, n = tree.shapes[fqn]
            linear = torch.nn.Linear(
                k,
                n,
                bias=tree.biased is None or fqn in tree.biased,
                device="meta",
                dtype=torch.bfloat16,
            )
            found[fqn] = (
                quantized
                if self._ask(linear, tree.inside(fqn), f"the Linear {fqn} (K = {k}, N = {n})")
                else FormatName.BF16
            )
        return found

    def _ask(self, module: Any, name: str, what: str) -> bool:
        try:
            with redirect_stdout(sys.stderr):
                return bool(self.function(module, name))
        except (Exception, SystemExit) as error:
            raise PatternError(
                f"found that {self.source} fails on {what} with {type(error).__name__}: {error}. It"
                " was given a bare module of this kind on the meta device and its name; allowed"
                " are functions that need no more, no values and no neighbours; mend it"
            ) from error


class FilterFnReader(Reader):
    """`module:function` or `file.py:function`. `allow_code=True` lets `read` import it."""

    name: ClassVar[str] = "filter-fn"
    words: ClassVar[str] = (
        "module:function or path/to/file.py:function, a filter_fn(module, fqn) as torchao's"
        " quantize_ takes it; runs that code"
    )

    def __init__(self, *, allow_code: bool = False) -> None:
        self.allow_code = allow_code

    def read(self, text: str) -> FilterFnList:
        """The function that a text names, imported."""
        source = text.strip()
        place, colon, name = source.rpartition(":")
        if not colon or not place or not name.isidentifier() or "\\n" in source:
            raise PatternError(
                f"found {source[:80]!r}; allowed is module:function or path/to/file.py:function;"
                " write it so"
            )
        if not self.allow_code:
            raise PatternError(
                f"found {source!r}, Python code that would have to be run to be read; allowed only"
                " when you say so: pass --allow-code (allow_code=True) if you trust it"
            )
        try:
            with redirect_stdout(sys.stderr):
                module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
        except (Exception, SystemExit) as error:
            raise PatternError(
                f"found {place!r}, which cannot be imported ({type(error).__name__}: {error});"
                " allowed is Python that imports; mend it"
            ) from error
        function = getattr(module, name, None)
        if not callable(function):
            there = [
                key
                for key, value in vars(module).items()
                if callable(value) and not isinstance(value, type) and not key.startswith("_")
            ]
            raise PatternError(
                f"found no function {name!r} in {place!r}; allowed are"
                f" {', '.join(there[:10]) or 'functions, and it has none'}; name one"
            )
        return FilterFnList(consumer=self.name, entries=(), function=function, source=source)


def _load_file(path: Path) -> ModuleType:
    """The module in a file, under a name of its own: dataclasses and pickles find it in
    `sys.modules`.
    """
    name = f"_filter_fn_{path.stem}_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    """A module by its dotted name; also from the working directory, behind what is installed."""
    with _working_directory_last():
        return importlib.import_module(name)


@contextmanager
def _working_directory_last() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
