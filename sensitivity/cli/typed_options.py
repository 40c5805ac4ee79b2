"""Which options did the user type? So that a command that is shown can repeat them.

    typed("model", "storage")      # ["--model", "tiny-flux", "--storage", "s.db"] inside `search`

Options that were left out, and those that the environment set, are not repeated. Outside a command
nothing was typed. A password in a URL is not repeated: *** stands for it.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any

from sensitivity.core.storage_url import hide_passwords

_typed: ContextVar[dict[str, list[str]]] = ContextVar("typed", default={})  # noqa: B039


def typed(*names: str) -> list[str]:
    """The words of those of the options that were typed, in the order of `names`.

    Args:
        names: of the parameters, as the command's function calls them.
    """
    known = _typed.get()
    return [word for name in names for word in known.get(name, ())]


LOCAL = ("out", "storage", "json_path", "force", "keep_pictures", "save_study", "show_all")
"""Options that name files of this machine, or do not decide what is found."""

OWN = ("storage", "device")
"""Options of a worker that stand for those of the search that it joins."""


def typed_command(name: str) -> str:
    """The whole command line of a command, without the options of `LOCAL`."""
    return shlex.join(
        ["sensitivity", name, *typed(*(own for own in _typed.get() if own not in LOCAL))]
    )


@contextmanager
def remembering(context: Any) -> Iterator[None]:
    """Inside, `typed` knows what was typed for a command.

    Args:
        context: click's, of the command.
    """
    found = _found(context)
    token = _typed.set(found)
    try:
        yield
    finally:
        _typed.reset(token)


@contextmanager
def repeating(command: Any, line: str | None) -> Iterator[None]:
    """Inside, `typed` knows what was typed in another command line, and this one's `OWN`.

    Args:
        command: click's, of the other line.
        line: as `typed_command` writes it; None leaves everything as it is.
    """
    words = shlex.split(line or "")[2:]
    if not words:
        yield
        return
    own = {name: words for name, words in _typed.get().items() if name in OWN}
    other = _found(command.make_context(command.name, words, resilient_parsing=True))
    token = _typed.set({name: words for name, words in other.items() if name not in OWN} | own)
    try:
        yield
    finally:
        _typed.reset(token)


def _found(context: Any) -> dict[str, list[str]]:
    """{parameter: the words that were typed for it}."""
    return {
        parameter.name: _words(parameter, context.params[parameter.name])
        for parameter in context.command.params
        if parameter.param_type_name == "option"
        and context.params.get(parameter.name) is not None
        and context.get_parameter_source(parameter.name).name == "COMMANDLINE"
    }


def _words(parameter: Any, value: Any) -> list[str]:
    """An option with its value, as it is typed."""
    flag = max(parameter.opts, key=len)
    if getattr(parameter, "is_flag", False):
        return [flag if value else max(parameter.secondary_opts, key=len)]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for one in values for word in (flag, _text(one))]


def _text(value: Any) -> str:
    return hide_passwords(str(value.value if isinstance(value, Enum) else value))
