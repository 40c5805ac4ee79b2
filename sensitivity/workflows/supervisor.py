"""How does a GPU keep working on a study though its process dies? `Supervisor`.

A small process, which never touches the GPU, starts the one that does the work and waits for it. A
child that dies by a signal or with an exit code that means nothing to this program is started again
alone, after a pause that doubles. A child that ends with a code of this program (`FINAL`) is done.

    Supervisor([sys.executable, "-m", "sensitivity", "search", ...], rank, os.environ).run()   # 0

- SIGTERM, SIGINT and SIGHUP are passed to the child once. It gives its claim back and ends; what
  has not ended after `Limits.grace_s` is killed.
- The child dies with its supervisor (`die_with_parent`), so that no GPU is held by nobody. What the
  child has started dies with the child.
- The child says through a pipe who it is in the database, and when it has finished something
  (`core.supervised`). The next child hears whom it replaces, whose claims are free at once.
- `Limits.deaths` deaths without finished work between them are a crash loop: the supervisor gives
  up. torchrun would then stop the other ranks of the host, so it stays until they have ended
  (`local_ranks`).

What it does not do: decide what the child does, or read its results. torch is never imported.
"""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from sensitivity.core.supervised import REPLACE_ME, REPLACES, SUPERVISED, Supervised
from sensitivity.workflows.launch import Rank
from sensitivity.workflows.local_ranks import LocalRanks

PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP")
FINAL = frozenset({0, 1, 2, 3, *(128 + getattr(signal, name, 0) for name in PASSED_ON)})
"""Exit codes after which a child is not started again: done, an error that would come again, and
ended from outside.
"""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When a child is started again, and when it is killed.

    Attributes:
        deaths: deaths without finished work between them, after which it is not started again.
        first_wait_s, longest_wait_s: the pause after the first death, and the most that it doubles
            to.
        grace_s: seconds that a child may take to end in order. torchrun, Slurm and Kubernetes kill
            after 30 seconds, so it is less.
        poll_s: seconds between two looks at other ranks, or at a child whose end was not told.
    """

    deaths: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    grace_s: float = 25.0
    poll_s: float = 0.5


@dataclass(slots=True)
class _Child:
    """A child that runs.

    Attributes:
        process: it.
        told: the end of the pipe that is read.
        errors: the end of its stderr that is read; None where it writes to ours.
        rest: what came of a line, by the file descriptor.
    """

    process: subprocess.Popen[bytes]
    told: int
    errors: int | None
    rest: dict[int, bytes] = field(default_factory=dict)


class Supervisor:
    """Keeps a child at work.

    Args:
        command: the child's program and arguments.
        environment: the child's (`launch.child_environment`).
        rank: which rank of a launch this is.
        limits: when it is started again.
        say: called with what happened to it, in words.
        folder: where ranks see one another (`LocalRanks`).
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        rank: Rank,
        *,
        limits: Limits | None = None,
        say: Callable[[str], None] = lambda _text: None,
        folder: Path | None = None,
    ) -> None:
        self.command, self.rank, self.say = list(command), rank, say
        self.environment, self.limits = dict(environment), limits or Limits()
        self.folder = folder
        self.worker: str | None = None
        self.deaths = 0
        self._stop: int | None = None
        self._events = selectors.DefaultSelector()

    def run(self) -> int:
        """Keep a child at work until it is done; the exit code of this process."""
        with self._signals(), LocalRanks(self.rank, self.folder) as ranks:
            code = self._keep_at_work()
            ranks.is_over()
            said = False
            while code and self._stop is None and ranks.others_work():
                if not said:
                    self.say("the other processes of this host go on; this one waits for them")
                    said = True
                self._wait(self.limits.poll_s)
        return code

    def _keep_at_work(self) -> int:
        while True:
            code = self._run_child()
            if self._stop is not None:
                return code if code in FINAL else 128 + self._stop
            if code in FINAL:
                return code
            self.deaths += 1
            if self.deaths >= self.limits.deaths:
                self.say(
                    f"its process {_ended(code)}, {self.deaths} times without finished work between"
                    " them; it is not started again"
                )
                return code
            wait_s = min(
                self.limits.first_wait_s * 2 ** (self.deaths - 1), self.limits.longest_wait_s
            )
            self.say(f"its process {_ended(code)}; it is started again in {wait_s:g} s")
            until = time.monotonic() + wait_s
            while self._stop is None and (left := until - time.monotonic()) > 0:
                self._wait(left)
            if self._stop is not None:
                return 128 + self._stop

    def _run_child(self) -> int:
        """Start a child and wait for it; its exit code as a shell has it."""
        try:
            child = self._started()
        except OSError as error:  # out of memory or processes, which may pass
            self.say(f"its process cannot be started ({error.strerror})")
            return os.EX_OSERR
        killed_at: float | None = None
        try:
            while child.process.poll() is None:
                if self._stop is not None and killed_at is None:
                    child.process.send_signal(self._stop)
                    killed_at = time.monotonic() + self.limits.grace_s
                if killed_at is not None and time.monotonic() >= killed_at:
                    self.say(f"its process did not end within {self.limits.grace_s:g} s: killed")
                    child.process.kill()
                    child.process.wait()
                self._wait(self.limits.poll_s, child)
        finally:
            self._let_go(child)
        code = child.process.returncode
        return code if code >= 0 else 128 - code

    def _started(self) -> _Child:
        told, tells = os.pipe()
        try:
            process = self._process(tells)
        except OSError:
            os.close(told)
            raise
        finally:
            os.close(tells)
        errors = None if process.stderr is None else process.stderr.fileno()
        child = _Child(process, told, errors)
        for file in (told, errors):
            if file is not None:
                os.set_blocking(file, False)
                self._events.register(file, selectors.EVENT_READ)
        return child

    def _process(self, tells: int) -> "subprocess.Popen[bytes]":
        """A new child, which tells by this pipe."""
        own = Supervised(
            local=self.rank.local,
            number=self.rank.number,
            of=self.rank.local_of,
            supervisor=os.getpid(),
            pipe=tells,
        )
        environment = self.environment | {SUPERVISED: own.to_text()}
        if self.worker is not None:
            environment[REPLACES] = self.worker
        parent = os.getpid()
        return subprocess.Popen(
            self.command,
            env=environment,
            pass_fds=(tells,),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE if self.rank.local else None,
            process_group=0,  # signals of the terminal and of torchrun reach the supervisor alone
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
        )

    def _let_go(self, child: _Child) -> None:
        """Take in what a child that ended has said, and end what it has left behind."""
        with suppress(OSError):
            os.killpg(child.process.pid, signal.SIGKILL)
        for file in (child.told, child.errors):
            if file is not None:
                self._read(child, file)
                with suppress(KeyError):
                    self._events.unregister(file)
        os.close(child.told)
        if child.process.stderr is not None:
            child.process.stderr.close()
            self._pass_on(child.rest.get(child.errors or -1, b""))

    def _wait(self, most_s: float, child: _Child | None = None) -> None:
        """Wait until a signal comes or something is said, at most for so many seconds."""
        for key, _mask in self._events.select(most_s):
            if child is not None and key.fd in (child.told, child.errors):
                self._read(child, key.fd)
            else:
                with suppress(BlockingIOError):
                    os.read(key.fd, 4096)

    def _read(self, child: _Child, file: int) -> None:
        """Read whole lines that came."""
        data = b""
        with suppress(BlockingIOError):
            while part := os.read(file, 65_536):
                data += part
            with suppress(KeyError):  # everybody has closed the other end
                self._events.unregister(file)
        *lines, child.rest[file] = (child.rest.get(file, b"") + data).split(b"\n")
        for line in lines:
            if file == child.errors:
                self._pass_on(line)
            else:
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        """What a child told."""
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if isinstance(said.get("worker"), str):
            self.worker = said["worker"]
        if said.get("finished"):
            self.deaths = 0

    def _pass_on(self, line: bytes) -> None:
        """A line of the child's stderr, with the number of its rank."""
        if line.strip():
            with suppress(OSError):
                sys.stderr.buffer.write(f"[rank {self.rank.local}] ".encode() + line + b"\n")
                sys.stderr.buffer.flush()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Inside, signals that end a process are kept to be passed on, and each one wakes
        `_wait`. What is ignored (nohup) stays so.
        """
        wake, woken = os.pipe()
        for file in (wake, woken):
            os.set_blocking(file, False)
        self._events.register(wake, selectors.EVENT_READ)
        numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
        numbers = [own for own in numbers if signal.getsignal(own) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._stopped) for number in numbers}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        woken_before = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._events.unregister(wake)
            os.close(wake)
            os.close(woken)

    def _stopped(self, number: int, _frame: FrameType | None) -> None:
        if self._stop is None:
            self._stop = number


def _ended(code: int) -> str:
    """How a process ended, in words."""
    if code == REPLACE_ME:
        return f"asked to be replaced (exit code {code})"
    if code > 128:
        with suppress(ValueError):
            return f"died by {signal.Signals(code - 128).name}"
    return f"ended with exit code {code}"


def die_with_parent(number: int, parent: int | None = None) -> None:
    """Let the system send this process a signal when the process that started it ends (Linux).

    Args:
        number: the signal.
        parent: who started it; if that has ended already, this process ends at once.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
