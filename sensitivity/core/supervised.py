"""Is this process the child of a supervisor, and what does it tell it? `supervised`.

Where several GPUs work on a study, a small process watches over the one that owns a GPU and starts
it again when it dies (`workflows.supervisor`). The child is told so by its environment, and tells
its supervisor who it is and that work was finished, a JSON object a line, through a pipe that it
inherited.

    supervised()                            # Supervised(local=1, number=1, of=8, ...), or None
    tell_supervisor(worker="node-7:4711:9f0e520d")
    tell_supervisor(finished=1)             # resets the supervisor's count of deaths

Only the child itself is supervised: what it starts inherits the environment, and is not.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

SUPERVISED = "SENSITIVITY_SUPERVISED"
"""The environment variable that holds a `Supervised` as JSON."""
REPLACES = "SENSITIVITY_REPLACES"
"""The environment variable with the name of the worker that died in the child's place."""

REPLACE_ME = 75
"""Exit code of a process that can do no more, though a new one can: the GPU no longer answers it,
or the database has been away for long (EX_TEMPFAIL of sysexits.h).
"""
UNEXPECTED = 70
"""Exit code of a child that an error ended which this program does not expect (EX_SOFTWARE)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """What a child knows of its supervisor.

    Attributes:
        local: its number on this host, from 0.
        number: its number among all of the launch.
        of: how many there are on this host.
        supervisor: the process number of the supervisor.
        pipe: the file descriptor that the supervisor reads.
    """

    local: int
    number: int
    of: int
    supervisor: int
    pipe: int

    def to_text(self) -> str:
        """The value of the environment variable."""
        return json.dumps(asdict(self))


def supervised(environment: Mapping[str, str] | None = None) -> Supervised | None:
    """What started this process, if that was a supervisor that is still there.

    Args:
        environment: None is `os.environ`.
    """
    text = (os.environ if environment is None else environment).get(SUPERVISED)
    if not text:
        return None
    try:
        found = Supervised(**json.loads(text))
    except (ValueError, TypeError):
        return None
    return found if found.supervisor == os.getppid() else None


def tell_supervisor(*, worker: str | None = None, finished: int = 0) -> None:
    """Tell the supervisor, if there is one, who this process is, or that work was finished.

    Nothing is raised: a supervisor that does not listen changes nothing.

    Args:
        worker: this process's name in the database.
        finished: pieces of work that are done and kept.
    """
    own = supervised()
    if own is None:
        return
    said = {"worker": worker} if worker is not None else {"finished": finished}
    with suppress(OSError):
        os.set_inheritable(own.pipe, False)
        os.write(own.pipe, (json.dumps(said) + "\n").encode())
