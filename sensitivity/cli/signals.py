"""How does a long command end when the system asks it to? `ending_in_order`.

SIGTERM (a scheduler, a container that is stopped) and SIGHUP (a terminal that is closed) end a
process at once, as a crash does. Inside this context they end it as Ctrl-C does: what is finished
is kept, and the running trial is marked to be taken again and not counted as one that ended its
process. The exit code is the shell's, 128 + the signal's number (`Ended`). The first signal ends
it: schedulers send several, and a second one would end what the first began, before what is claimed
is given back.

with ending_in_order():
    find_recipe(spec, request)
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Ended(SystemExit):
    """A signal ended the command. `name` is the signal's, `code` the shell's exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Ended`. What is ignored (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number in numbers if before[number] is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def _end(number: int, _frame: FrameType | None) -> None:
    for other in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
        if signal.getsignal(other) is _end:
            signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
