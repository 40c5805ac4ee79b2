"""A rank's supervisor keeps its child at work: restarts, limits, signals, and what a child sees."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sensitivity.core.supervised import REPLACE_ME, SUPERVISED, supervised, tell_supervisor
from sensitivity.workflows.launch import Rank
from sensitivity.workflows.local_ranks import LocalRanks
from sensitivity.workflows.supervisor import Limits, Supervisor

ALONE = Rank()
QUICK = Limits(first_wait_s=0.001, longest_wait_s=0.002, grace_s=0.2, poll_s=0.02)
LIFE = """
import json, os, signal, sys, time
from pathlib import Path
own = json.loads(os.environ["SENSITIVITY_SUPERVISED"])
tell = lambda **said: os.write(own["pipe"], (json.dumps(said) + "\\n").encode())
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
lives = Path("lives")
life = int(lives.read_text()) + 1 if lives.exists() else 1
lives.write_text(str(life))
"""
"""How the fake children begin: `life` is the number of the child, from 1."""


@pytest.fixture
def said() -> list[str]:
    """What the supervisor said."""
    return []


@pytest.fixture
def keep(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Keep a fake child at work, in a folder of its own; gives the supervisor's exit code."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, rank: Rank = ALONE, limits: Limits = QUICK) -> int:
        command = [sys.executable, "-S", "-E", "-c", LIFE + textwrap.dedent(script)]
        folder = tmp_path / "ranks"
        return Supervisor(
            command, os.environ, rank, limits=limits, say=said.append, folder=folder
        ).run()

    return run


def lives() -> int:
    """How many children there were."""
    return int(Path("lives").read_text())


# --- what is started again -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 2, 3, 129, 130, 143])
def test_a_code_of_the_program_is_final(keep: Callable[..., int], code: int) -> None:
    """A child that is done, was refused or was ended from outside is not started again."""
    assert keep(f"sys.exit({code})") == code
    assert lives() == 1


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("die()", "died by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died by SIGSEGV"),
        ("os._exit(75)", "asked to be replaced"),
        ("os._exit(70)", "exit code 70"),
    ],
)
def test_a_child_that_died_is_started_again(
    keep: Callable[..., int], said: list[str], end: str, words: str
) -> None:
    """After a signal, a poisoned GPU or an unexpected error the next child goes on."""
    assert keep(f"if life < 3: {end}") == 0
    assert lives() == 3
    assert len(said) == 2
    assert all(words in text for text in said)


def test_a_crash_loop_ends(keep: Callable[..., int], said: list[str]) -> None:
    """Five deaths without finished work are enough; the code is the shell's for the last one."""
    assert keep("die()") == 128 + signal.SIGKILL
    assert lives() == 5
    assert "5 times without finished work between them; it is not started again" in said[-1]


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path, said: list[str]) -> None:
    """A host that is out of processes or memory may have some soon; not forever."""
    supervisor = Supervisor(
        ["no-such-program"], os.environ, ALONE, limits=QUICK, say=said.append, folder=tmp_path / "r"
    )
    assert supervisor.run() == os.EX_OSERR
    assert sum("cannot be started (No such file or directory)" in text for text in said) == 5


def test_finished_work_resets_the_count_of_deaths(keep: Callable[..., int]) -> None:
    """A child that finishes something before it dies is no crash loop."""
    assert keep("if life == 7: sys.exit(0)\nif life in (3, 6): tell(finished=1)\ndie()") == 0
    assert lives() == 7


def test_pauses_double_up_to_the_longest(keep: Callable[..., int], said: list[str]) -> None:
    """1, 2, 4 ... times the first pause."""
    keep("die()", limits=Limits(deaths=5, first_wait_s=0.01, longest_wait_s=0.03, poll_s=0.02))
    assert [text.rsplit(" in ")[-1] for text in said[:-1]] == [
        "0.01 s",
        "0.02 s",
        "0.03 s",
        "0.03 s",
    ]


def test_the_next_child_hears_whom_it_replaces(keep: Callable[..., int]) -> None:
    """The name that a child told is in the environment of the next, and of the one after that."""
    keep(
        """
        with open("replaced", "a") as file:
            print(os.environ.get("SENSITIVITY_REPLACES"), file=file)
        if life == 1: tell(worker="node:1:aa")
        if life < 3: die()
        """
    )
    assert Path("replaced").read_text().split() == ["None", "node:1:aa", "node:1:aa"]


def test_nonsense_in_the_pipe_is_ignored(keep: Callable[..., int]) -> None:
    """A line that is no JSON object, or that was cut by a death, ends nothing."""
    assert keep('os.write(own["pipe"], b"{no\\n7\\n[]\\n{\\"worker\\": 5}\\n{\\"wor")') == 0


def test_what_a_child_started_dies_with_it(keep: Callable[..., int]) -> None:
    """A process that a dead child left behind, and that may hold the GPU, is killed."""
    keep(
        """
        if life == 1:
            import subprocess
            left = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
            Path("left").write_text(str(left.pid))
            die()
        """
    )
    assert not is_alive(int(Path("left").read_text()))


# --- what a child tells --------------------------------------------------------------------------


def test_a_supervised_process_tells_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real child's side writes a line for each thing; elsewhere nothing is written."""
    tell_supervisor(worker="nobody hears this")
    ours, theirs = os.pipe()
    own = {"local": 1, "number": 9, "of": 8, "supervisor": os.getppid(), "pipe": theirs}
    monkeypatch.setenv(SUPERVISED, json.dumps(own))
    found = supervised()
    assert found is not None
    assert (found.local, found.number, found.of) == (1, 9, 8)
    tell_supervisor(worker="a")
    tell_supervisor(finished=2)
    os.close(theirs)
    assert os.read(ours, 1000) == b'{"worker": "a"}\n{"finished": 2}\n'
    os.close(ours)
    tell_supervisor(finished=1)  # nobody listens any more


@pytest.mark.parametrize("text", ["", "no JSON", "{}", '{"local": 1}'])
def test_who_has_another_parent_is_not_supervised(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """What a child starts inherits its environment, and is not supervised; nor is nonsense."""
    monkeypatch.setenv(SUPERVISED, text)
    assert supervised() is None
    own = {"local": 0, "number": 0, "of": 1, "supervisor": os.getppid() + 1, "pipe": 1}
    monkeypatch.setenv(SUPERVISED, json.dumps(own))
    assert supervised() is None


# --- signals -------------------------------------------------------------------------------------

SUPERVISING = """
import os, sys
from pathlib import Path
from sensitivity.workflows.launch import Rank
from sensitivity.workflows.supervisor import Limits, Supervisor, die_with_parent
limits = Limits(first_wait_s=30, grace_s=0.3, poll_s=0.05)
say = lambda text: print(text, file=sys.stderr, flush=True)
command = [sys.executable, "-S", "-E", "-c", sys.argv[1]]
rank = Rank(local=int(sys.argv[2]), local_of=int(sys.argv[3]))
sys.exit(Supervisor(command, os.environ, rank, limits=limits, say=say, folder=Path("ranks")).run())
"""


def start(script: str, folder: Path, local: int = 0, of: int = 1) -> "subprocess.Popen[str]":
    """A supervisor in a process of its own, whose child runs a script."""
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISING, LIFE + textwrap.dedent(script), str(local), str(of)],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> str:
    """What a file holds, once it is there and holds anything."""
    until = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path.name} never came"
        time.sleep(0.01)
    return path.read_text()


def is_alive(pid: int) -> bool:
    """Whether a process is there, after a moment in which it may end; one that nobody has waited
    for has ended.
    """
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.01)
    return True


COUNTING = """
def ended(number, frame):
    with open("got", "a") as file:
        print(number, file=file)
    {then}
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, ended)
Path("pid").write_text(str(os.getpid()))
while True: time.sleep(0.02)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once(tmp_path: Path, number: signal.Signals) -> None:
    """The child ends in order, though the signal came to the whole group, twice; its code is the
    supervisor's.
    """
    then = f"time.sleep(0.1); sys.exit({128 + number})"
    with start(COUNTING.format(then=then), tmp_path) as process:
        wait_for(tmp_path / "pid")
        process.send_signal(number)
        wait_for(tmp_path / "got")
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    assert (tmp_path / "got").read_text().split() == [str(int(number))]
    assert (tmp_path / "lives").read_text() == "1"


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """After the grace time; the exit code is that of the signal that asked for it."""
    with start(COUNTING.format(then="pass"), tmp_path) as process:
        child = int(wait_for(tmp_path / "pid"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert process.stderr is not None
        assert "did not end within 0.3 s: killed" in process.stderr.read()
    assert not is_alive(child)


def test_a_signal_ends_the_pause_before_a_restart(tmp_path: Path) -> None:
    """Nobody waits half a minute for a supervisor that has no child."""
    with start('Path("pid").write_text("1"); die()', tmp_path) as process:
        assert process.stderr is not None
        assert "started again in 30 s" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_the_child_dies_with_its_supervisor(tmp_path: Path) -> None:
    """A supervisor that is killed leaves no process on the GPU."""
    with start(COUNTING.format(then="pass"), tmp_path) as process:
        child = int(wait_for(tmp_path / "pid"))
        process.kill()
    assert not is_alive(child)


# --- several ranks -------------------------------------------------------------------------------


def test_a_rank_that_gives_up_waits_for_the_others(tmp_path: Path) -> None:
    """torchrun stops all ranks when one fails, so that one stays until the others have ended."""
    done = tmp_path / "done"
    with (
        start(
            f'while not os.path.exists("{done.name}"): time.sleep(0.02)', tmp_path, 0, 2
        ) as first,
        start("sys.exit(2)", tmp_path, 1, 2) as second,
    ):
        assert second.stderr is not None
        assert "this one waits for them" in second.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.2)
        done.touch()
        assert (first.wait(10), second.wait(10)) == (0, 2)
    assert not (tmp_path / "ranks").exists()


def test_ranks_that_all_fail_all_end(tmp_path: Path) -> None:
    """None waits for one that waits itself; nor for one that was killed."""
    rank = [Rank(local=i, local_of=3) for i in range(3)]
    with LocalRanks(rank[0], tmp_path) as first:
        assert first.others_work()  # the others have not begun
        with LocalRanks(rank[1], tmp_path) as second, LocalRanks(rank[2], tmp_path) as third:
            assert first.others_work()
            third.is_over()
            second.is_over()
            assert second.others_work()
            first.is_over()
            assert [own.others_work() for own in (first, second, third)] == [False] * 3


def test_a_rank_that_never_begins_is_not_waited_for_forever(tmp_path: Path) -> None:
    """torchrun starts all ranks at once; one that is missing after a minute has died."""
    now = [0.0]
    with LocalRanks(Rank(local=0, local_of=2), tmp_path / "own", clock=lambda: now[0]) as own:
        own.is_over()
        assert own.others_work()
        now[0] = 61.0
        assert not own.others_work()


def test_lines_of_other_ranks_have_their_number(
    keep: Callable[..., int], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """What a library writes to stderr is told apart; the first rank's is passed as it is, and
    stdout, which may hold JSON, always is.
    """
    script = 'sys.stderr.write("one\\n\\ntwo"); sys.stderr.flush(); print("{}")'
    keep(script, Rank(local=3, local_of=1))
    assert capfdbinary.readouterr() == (b"{}\n", b"[rank 3] one\n[rank 3] two\n")
    keep(script, Rank())
    assert capfdbinary.readouterr() == (b"{}\n", b"one\n\ntwo")


def test_being_replaced_is_no_final_code() -> None:
    """The code that a process with a lost GPU ends with is EX_TEMPFAIL."""
    assert REPLACE_ME == os.EX_TEMPFAIL
