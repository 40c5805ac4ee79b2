"""Which command goes on where this one ended? `same_command`: what was typed, ready to paste.

    same_command()        # "uv run sensitivity search --model tiny-flux --budget 50"

Words are quoted for a shell. The environment and what a shell put in place of variables are not
known. A password in a URL is not shown: *** stands for it.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sensitivity.core.storage_url import hide_passwords

PROGRAM = "sensitivity"
UNDER_UV = "UV_RUN_RECURSION_DEPTH"
"""`uv run` sets this for what it runs."""


def same_command(
    argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """The running command as a line for a shell.

    Args:
        argv: the program and its arguments; None is `sys.argv`.
        environment: None is `os.environ`.
    """
    program, *words = sys.argv if argv is None else argv
    environment = os.environ if environment is None else environment
    return shlex.join([*_started(program, environment), *map(hide_passwords, words)])


def program() -> list[str]:
    """How the running program was started, for other commands of it; its name where it was called
    from Python.
    """
    if Path(sys.argv[0]).name not in (PROGRAM, "__main__.py"):
        return [PROGRAM]
    return _started(sys.argv[0], os.environ)


def _started(program: str, environment: Mapping[str, str]) -> list[str]:
    """How the program was started, as far as it can be seen."""
    path = Path(program)
    python = path.name == "__main__.py"
    name = ["python", "-m", PROGRAM] if python else [PROGRAM]
    if UNDER_UV in environment:
        return ["uv", "run", *name]
    found = shutil.which(PROGRAM, path=environment.get("PATH"))
    if python or path.name == program or (found and path.exists() and path.samefile(found)):
        return name
    return [program]
