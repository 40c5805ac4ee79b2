"""How does a library message name a command-line option?

Messages of the library name the fields of its records in backticks: "`max_lpips` is -1". A user of
the command line typed `--max-lpips`. `name_flags` replaces a field by the option or argument of the
running command that has its name; other words in backticks stay as they are.

    name_flags("`max_lpips` is -1")      # inside `search`: "--max-lpips is -1"
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from typer.core import TyperCommand

from sensitivity.errors import SensitivityError

SIZES = ("max_memory",)
"""Parameters that are sizes, whose fields are in bytes."""
_FIELD = re.compile(r"`([a-z][a-z0-9_]*)`")
_flags: ContextVar[dict[str, str]] = ContextVar("flags", default={})  # noqa: B039 - never changed


def flags_of(parameters: list[Any]) -> dict[str, str]:
    """{field: how the command line names it} of a command's parameters.

    A field is a parameter's Python name or its longest option without dashes: `--prompt-count` is
    the field `prompt_count`, `--format` both `fmt` and `format`. A size is typed with its unit, and
    its field is in bytes: `--max-memory` is `max_memory_bytes`, too.
    """
    flags = {}
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            flag = parameter.metavar or parameter.name.upper()
            flags[parameter.name] = flag
        else:
            flag = max(parameter.opts, key=len)
            flags[parameter.name] = flags[flag.lstrip("-").replace("-", "_")] = flag
            if parameter.name in SIZES:
                flags[f"{parameter.name}_bytes"] = flag
    return flags


def name_flags(text: str) -> str:
    """The text with fields in backticks replaced by the running command's options."""
    flags = _flags.get()
    return _FIELD.sub(lambda found: flags.get(found[1], found[0]), text)


@contextmanager
def naming_flags(parameters: list[Any]) -> Iterator[None]:
    """Inside, `name_flags` knows the options of a command."""
    token = _flags.set(flags_of(parameters))
    try:
        yield
    finally:
        _flags.reset(token)


class FlagNamingCommand(TyperCommand):
    """A command whose errors name its options instead of the library's fields."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the text of a SensitivityError is rewritten by `name_flags`."""
        with naming_flags(self.params):
            try:
                return super().invoke(ctx)
            except SensitivityError as error:
                error.args = (name_flags(str(error)), *error.args[1:])
                raise
