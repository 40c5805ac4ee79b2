"""How do the libraries read a model's files as data, and never as code?

    with only_data():
        cls.from_pretrained(folder, use_safetensors=True)

Two kinds of files run code when they are read: pickles (`pytorch_model.bin`, `.pt`, `.ckpt`), and
Python files that a config names (`auto_map`, `custom_pipeline`, a component's own module). Which
classes load them is decided deep inside of diffusers and transformers, and changes with their
versions. So nothing depends on that here: while the context is open, opening a pickle or importing
a model's own Python raises PipelineError, whoever asks for it.

Conventions. It holds for the whole process, not for one thread, and contexts may be nested.
`weights_only=True` does not count as safe: such a pickle is refused too.

What it does not do: decide which classes may load at all (`component_classes`).
"""

import importlib
import threading
from collections.abc import Callable
from typing import Any

from sensitivity.core.words import printable
from sensitivity.errors import PipelineError

PICKLES = (
    ("torch", "load"),
    ("torch.serialization", "load"),
    ("torch.jit", "load"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
)
"""(module, function) of all that opens a pickle; `numpy.load` opens its pickles with `pickle`."""
FOREIGN_CODE = (
    ("transformers.dynamic_module_utils", "get_class_in_module"),
    ("transformers.dynamic_module_utils", "get_cached_module_file"),
    ("diffusers.utils.dynamic_modules_utils", "get_class_in_module"),
    ("diffusers.utils.dynamic_modules_utils", "get_cached_module_file"),
)
"""(module, function) of all that fetches or imports a model's own Python."""
QUESTION = ("transformers.dynamic_module_utils", "TIME_OUT_REMOTE_CODE")
"""Seconds in which transformers asks on the terminal whether to run a model's code; 0: never."""


class only_data:  # noqa: N801 - reads as a statement: with only_data()
    """A context in which no pickle is opened, and no Python of a model is imported."""

    lock = threading.Lock()
    depth = 0
    originals: dict[tuple[str, str], Any] = {}  # noqa: RUF012 - one for the process, by intent

    def __enter__(self) -> None:
        with only_data.lock:
            only_data.depth += 1
            if only_data.depth == 1:
                for place in PICKLES:
                    _replace(place, _refusal(_describe_pickle))
                for place in FOREIGN_CODE:
                    _replace(place, _refusal(_describe_code))
                _replace(QUESTION, 0)

    def __exit__(self, *_: object) -> None:
        with only_data.lock:
            only_data.depth -= 1
            if only_data.depth == 0:
                for (module, name), original in only_data.originals.items():
                    setattr(importlib.import_module(module), name, original)
                only_data.originals.clear()


def _replace(place: tuple[str, str], value: Any) -> None:
    """Replace a module's attribute and keep the original; versions without it are left alone."""
    module, name = importlib.import_module(place[0]), place[1]
    if hasattr(module, name):
        only_data.originals[place] = getattr(module, name)
        setattr(module, name, value)


def _refusal(describe: Callable[[object], str]) -> Callable[..., Any]:
    def refuse(*args: Any, **options: Any) -> Any:
        given = [*args, *options.values()]
        raise PipelineError(describe(given[0] if given else None))

    return refuse


def _describe_pickle(source: object) -> str:
    name = getattr(source, "name", source)
    shown = f" {printable(str(name))[:300]}" if isinstance(name, str) or _is_path(name) else ""
    return (
        f"found the pickle{shown} among the model's files; expected safetensors alone, because"
        " pickled files run code when they are opened: save the pipeline again with"
        " `pipeline.save_pretrained(folder)`, and remove the pickle"
    )


def _describe_code(source: object) -> str:
    return (
        f"the model's files name Python of their own ({printable(str(source))[:300]}); expected"
        " classes of the installed diffusers and transformers, because a model's own code is never"
        " run: take `auto_map` and the Python files out, or upgrade diffusers and transformers"
    )


def _is_path(value: object) -> bool:
    return hasattr(value, "__fspath__")
