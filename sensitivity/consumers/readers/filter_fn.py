"""What does a Python `filter_fn` choose?

The list is `module:function` or `path/to/file.py:function`, a function as torchao takes it.
**Reading such a list runs that code.**

    listed = FilterFnReader(allow_code=True).read("my_filters.py:skip_small")
    listed.assign(tree, quantized=FormatName.NVFP4)

Rule, of `quantize_(model, config, filter_fn=f)`: torchao calls `f(module, fqn)` for every module,
with the name inside the component, and quantizes the module if the result is true.

Safety. Nothing is imported unless the reader was made with `allow_code=True`; without it `read`
fails and says what to do. Code that is allowed can do whatever the user can. Allow it for files
that you wrote or read.

Convention. For a Linear the function is called with an `nn.Linear` of the true K and N, in bf16 on
the meta device. It has a bias unless the tree knows that there is none. It has no parent, no values
and no attributes beside those of an `nn.Linear`. For a module that contains Linears the function is
called with a bare `nn.Module`; if the result is true, that is an error, since torchao fails on it.
A function that needs more than this stops with an error that names the module. Other modules
(norms, convolutions, activations) are not tried. What the function prints goes to stderr.

Source: torchao 0.18 (`quantization/quant_api.py`: `_replace_with_custom_fn_if_matches_filter`),
read, and run in the tests.
"""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.torchao_keys import containers
from sensitivity.core.format_name import FormatName
from sensitivity.core.user_modules import import_user_module
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

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: `quantized` where the function returns true, else bf16}.

        Raises:
            PatternError: the function failed on a Linear, it chooses a module that is no Linear, or
                K and N of a Linear are not known.
        """
        self._check_containers(tree)
        return {
            fqn: quantized if self._chooses(fqn, tree) else FormatName.BF16 for fqn in tree.fqns
        }

    def _check_containers(self, tree: ModelTree) -> None:
        import torch

        for name in containers(map(tree.inside, tree.fqns)):
            if self._call(torch.nn.Module(), name, f"the module {name!r}, no Linear"):
                raise PatternError(
                    f"found that {self.source} chooses the module {name!r}, which is no Linear;"
                    " torchao's quantize_ fails there ('no attribute weight'); expected a function"
                    " that chooses Linears only; begin with isinstance(module, nn.Linear)"
                )

    def _chooses(self, fqn: str, tree: ModelTree) -> bool:
        import torch

        if fqn not in tree.shapes:
            raise PatternError(
                f"found no K and N of {fqn}, which {self.source} may look at; expected a model"
                " whose shapes are known; profile it first"
            )
        k, n = tree.shapes[fqn]
        bias = tree.biased is None or fqn in tree.biased
        linear = torch.nn.Linear(k, n, bias=bias, device="meta", dtype=torch.bfloat16)
        return self._call(linear, tree.inside(fqn), f"the Linear {fqn} (K = {k}, N = {n})")

    def _call(self, module: Any, name: str, what: str) -> bool:
        try:
            with redirect_stdout(sys.stderr):
                return bool(self.function(module, name))
        except (Exception, SystemExit) as error:
            raise PatternError(
                f"found that {self.source} fails on {what} with {type(error).__name__}: {error}. It"
                " was called with a bare module of this kind on the meta device, and its name;"
                " expected a function that needs no values and no other modules; correct it"
            ) from error


class FilterFnReader(Reader):
    """`module:function` or `file.py:function`. `allow_code=True` lets `read` import it."""

    name: ClassVar[str] = "filter-fn"
    description: ClassVar[str] = (
        "module:function or path/to/file.py:function, a filter_fn(module, fqn) as torchao's"
        " quantize_ takes it; runs that code"
    )

    def __init__(self, *, allow_code: bool = False) -> None:
        self.allow_code = allow_code

    def read(self, text: str) -> FilterFnList:
        """The function that a text names, imported.

        Raises:
            PatternError: the text names no function, code is not allowed, or the import fails.
        """
        source = text.strip()
        place, colon, name = source.rpartition(":")
        if not colon or not place or not name.isidentifier() or "\n" in source:
            raise PatternError(
                f"found {source[:80]!r}; expected module:function or path/to/file.py:function; name"
                " the function so"
            )
        if not self.allow_code:
            raise PatternError(
                f"found {source!r}, Python code that would have to be run to be read; expected"
                " `allow_code` for that; set it if you trust the code"
            )
        module = _import(place)
        function = getattr(module, name, None)
        if not callable(function):
            there = [
                key
                for key, value in vars(module).items()
                if callable(value) and not isinstance(value, type) and not key.startswith("_")
            ]
            expected = f"one of {', '.join(there[:10])}" if there else "a function, and it has none"
            raise PatternError(
                f"found no function {name!r} in {place!r}; expected {expected}; name another"
            )
        return FilterFnList(consumer=self.name, entries=(), function=function, source=source)


def _import(place: str) -> ModuleType:
    """The module of a file or a dotted name."""
    try:
        with redirect_stdout(sys.stderr):
            return _load_file(Path(place)) if place.endswith(".py") else import_user_module(place)
    except (Exception, SystemExit) as error:
        raise PatternError(
            f"found {place!r}, which cannot be imported ({type(error).__name__}: {error}); expected"
            " Python that can; correct it"
        ) from error


def _load_file(path: Path) -> ModuleType:
    """The module in a file, under a name of its own in `sys.modules`.

    Dataclasses and pickles look their module up there.
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
