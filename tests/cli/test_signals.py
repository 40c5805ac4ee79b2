"""A command that the system ends keeps what is finished, and says how to go on."""

import errno
import os
import signal
import sys
import threading

import pytest

from sensitivity.cli import entry
from sensitivity.cli.signals import Ended, ending_in_order


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_in_order(number: signal.Signals) -> None:
    """Inside, the signal is a SystemExit with the shell's code; afterwards it is what it was."""
    outside = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it
    try:
        with pytest.raises(Ended) as ended, ending_in_order():
            signal.raise_signal(number)
        assert (ended.value.code, ended.value.name) == (128 + number, number.name)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 1, "interrupted"), (signal.SIGTERM, 128 + signal.SIGTERM, "ended by SIGTERM")],
)
def test_who_ends_a_command_is_told_how_to_go_on(
    number: signal.Signals,
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last line is the command that was typed; it is no error."""

    def runs(**_options: object) -> None:
        with ending_in_order():
            os.kill(os.getpid(), number)

    outside = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(entry, "app", runs)
    monkeypatch.setattr(sys, "argv", ["sensitivity", "search", "--model", "a b"])
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    try:
        with pytest.raises(SystemExit) as ended:
            entry.main()
    finally:
        signal.signal(signal.SIGTERM, outside)
    assert ended.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{word}; finished work is kept, the same command goes on: sensitivity search --model 'a b'"
    )


@pytest.mark.usefixtures("capsys")
def test_a_terminal_that_is_closed_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be printed any more, both streams are left alone when Python exits."""
    left: list[object] = []

    def ended(**_options: object) -> None:
        raise Ended(signal.SIGHUP)

    def closed(_text: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(entry, "app", ended)
    monkeypatch.setattr(entry, "print_ended", closed)
    monkeypatch.setattr(entry, "_discard_output", lambda *streams: left.append(streams))
    with pytest.raises(SystemExit) as exited:
        entry.main()
    assert exited.value.code == 128 + signal.SIGHUP
    assert left == [(), (sys.stderr,)]


def test_a_second_signal_does_not_end_the_ending() -> None:
    """What is given back when the first comes is given back whole; afterwards all is as it was."""
    outside = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    given_back = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            given_back.append("the claim")

    try:
        with pytest.raises(Ended, match="143"), ending_in_order():
            work()
        assert given_back == ["the claim"]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, outside)


def test_what_is_ignored_stays_ignored() -> None:
    """Under nohup a closed terminal ends nothing; in another thread nothing is changed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_in_order():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    seen: list[object] = []

    def inside() -> None:
        with ending_in_order():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
