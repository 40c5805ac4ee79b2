"""Is this process one of several of a host? `supervise`, and what such a process prints.

Under torchrun, `search` and `worker` do not work themselves: each rank supervises a child that does
(`workflows.supervisor`). Of the children of a host, the first shows a search as it always does; the
others say only what they finish and what goes wrong, with their number before it.

    code = supervise()          # None: this process does the work; else the exit code
    prefix()                    # "[rank 3] " in the child of the fourth rank, else ""
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from sensitivity.core.file_names import url_scheme
from sensitivity.core.supervised import supervised

SUPERVISED_COMMANDS = ("search", "worker")
STORAGE = "SENSITIVITY_STORAGE"
"""The environment variable that stands for `--storage`."""
_SHOWS = ("-h", "--help", "--dry-run")


def supervise() -> int | None:
    """Supervise a child that does what was asked for, where torchrun started this process; its exit
    code. None where this process is to do it.

    Raises:
        UserError: there is no GPU for this rank.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in SUPERVISED_COMMANDS or set(_SHOWS) & set(arguments):
        return None
    from sensitivity.workflows.launch import Rank, child_environment
    from sensitivity.workflows.supervisor import Supervisor, die_with_parent

    rank = Rank.of(os.environ)
    if rank is None or supervised() is not None:
        return None
    die_with_parent(signal.SIGTERM)
    own, url = without_url(arguments)
    environment = child_environment(os.environ, rank, needs_gpu=not _asks_for_cpu(arguments))
    if url is not None:
        environment[STORAGE] = url

    def say(text: str) -> None:
        with suppress(OSError):  # who started the launch may be gone
            print(f"[rank {rank.local}] {text}", file=sys.stderr, flush=True)

    started = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    return Supervisor(
        [sys.executable, *started, *own],
        environment,
        rank,
        say=say,
    ).run()


def without_url(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """A command's arguments without a `--storage` that is a URL, and that URL. It may hold a
    password, and every user of a machine sees the arguments of its processes.
    """
    left: list[str] = []
    url: str | None = None
    words = iter(arguments)
    for word in words:
        flag, is_joined, value = word.partition("=")
        if flag != "--storage":
            left.append(word)
            continue
        if not is_joined:
            value = next(words, "")
        if url_scheme(value) is None:
            left += [word] if is_joined else [word, value]
        else:
            url = value
    return left, url


def _asks_for_cpu(arguments: Sequence[str]) -> bool:
    """Whether `--device cpu` was typed."""
    return "--device=cpu" in arguments or ("--device", "cpu") in pairwise(arguments)


def prefix() -> str:
    """What stands before a line of this process: "[rank 3] " in a child that is not its host's
    first, else "".
    """
    own = supervised()
    return f"[rank {own.local}] " if own is not None and own.local else ""


def is_quiet() -> bool:
    """Whether another process of this host shows what all of them are at."""
    return bool(prefix())
