"""Does a process of this host still live? `ProcessMark`, which tells it from any other process.

    mark = ProcessMark.own()
    mark.has_ended()            # False; True once it was killed; None where that is not seen here

A number alone is not enough, since numbers are used again. So a mark names the boot of the system
(/proc/sys/kernel/random/boot_id), the namespaces in which numbers and start times count, and when
the process started (proc(5), field 22 of /proc/PID/stat). Of another host or container nothing is
known, and neither where there is no /proc.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Self

_BOOT = "/proc/sys/kernel/random/boot_id"
_ENDED = ("Z", "X", "x")
"""States of processes that run no more (proc(5))."""


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process.

    Attributes:
        machine: the boot of its system, and the namespaces of its number; "" is not known.
        process: its number there.
        started: when it started, in clock ticks since that boot; 0 is not known.
    """

    machine: str
    process: int
    started: int

    @classmethod
    def own(cls) -> Self:
        """Of this process."""
        number = os.getpid()
        _state, started = _stat(number)
        return cls(_machine(), number, started)

    def has_ended(self) -> bool | None:
        """Whether it is gone; None where that is not seen from here."""
        if not self.machine or not self.started or self.machine != _machine():
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass  # it is another user's
        state, started = _stat(self.process)
        if not started:
            return None  # /proc hides it (hidepid)
        return started != self.started or state in _ENDED


def _stat(number: int) -> tuple[str, int]:
    """State and start of a process; ("", 0) where they cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # its name may hold anything
        return fields[0], int(fields[19])
    return "", 0


@cache
def _machine() -> str:
    try:
        with open(_BOOT, encoding="utf-8") as file:
            boot = file.read().strip()
        spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "time")]
    except OSError:
        return ""
    return " ".join([boot, *spaces])
