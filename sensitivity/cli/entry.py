"""How does an error become an exit code? `main`, the entry point of `sensitivity`.

0: success. 2: a mistake that the user can correct; the message says the value found, what was
expected and the next step. 75: this process can do no more, and a new one can: its GPU no longer
answers it, or the database has been away for long. 128 + the signal's number: ended by SIGTERM or
SIGHUP. 1: anything else; under a supervisor (`ranks`) an error that the program does not expect is
70, since it starts the command again then. No error that the program expects is a traceback; the
traceback of one that it does not expect is printed without control characters.
"""

import errno
import io
import logging
import os
import sys
import traceback
from typing import Any, TextIO

import typer

from sensitivity.cli.app import app
from sensitivity.cli.flags import name_flags
from sensitivity.cli.ranks import is_quiet, supervise
from sensitivity.cli.same_command import same_command
from sensitivity.cli.screen import print_ended, print_error, printable_lines
from sensitivity.cli.signals import Ended
from sensitivity.core.devices import poisons_the_device
from sensitivity.core.storage_url import hide_passwords
from sensitivity.core.supervised import REPLACE_ME, UNEXPECTED, supervised
from sensitivity.core.words import first_line
from sensitivity.errors import DeviceLostError, LostDatabaseError, SensitivityError, UserError

# click's own class, or that of the copy of click inside newer typers
ParsingError: type[Any] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

INTERRUPTED = 130  # what typer returns for Ctrl-C
WRONG_MSLK = (
    "the installed mslk is for another release of torch, and torchao cannot be imported beside it:"
    " set MSLK_PYTHON_ONLY=1 in the environment (NVFP4's quantizer needs no library of it), or"
    " uninstall mslk and mslk-cuda; `sensitivity doctor` then names the release that fits"
)
_GOES_ON = "finished work is kept, the same command goes on"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Run the command line and exit with its code."""
    _quiet_libraries()
    _open_closed_streams()
    _buffer_output()
    try:
        code = _run()
    except Exception as error:
        sys.stderr.write(hide_passwords(printable_lines(traceback.format_exc())))
        code = _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> int:
    """The exit code after an error that is not expected."""
    if poisons_the_device(error):
        return REPLACE_ME
    return 1 if supervised() is None else UNEXPECTED


def _open_closed_streams() -> None:
    """Give streams that the shell closed (`>&-`) the null device, so that no file that is opened
    later gets their numbers, which libraries write to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _buffer_output() -> None:
    """Buffer stdout where PYTHONUNBUFFERED is set.

    On a full disk the bare file takes a part of a text, and Python drops the rest without an error.
    """
    file = getattr(sys.stdout, "buffer", None)
    if isinstance(file, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(file),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=True,
        )


def _run() -> Any:
    """Run the command line; the exit code, with every expected error printed.

    Raises:
        Exception: one that is not expected.
    """
    code: Any
    try:
        if (code := supervise()) is not None:
            return code
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except UserError as error:
        print_error(str(error))
        code = REPLACE_ME if _may_pass(error) else 2
    except DeviceLostError as error:
        print_error(str(error))
        code = REPLACE_ME
    except SensitivityError as error:
        print_error(str(error))
        code = 1
    except ParsingError as error:
        error.message = hide_passwords(printable_lines(error.message))
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _print_ended("interrupted")
        code = 1
    except Ended as ended:
        try:
            _print_ended(f"ended by {ended.name}")
        except OSError:  # a terminal that is closed takes nothing any more
            _discard_output()
            _discard_output(sys.stderr)
        code = ended.code
    except BrokenPipeError:
        _discard_output()
        code = 1
    except OSError as error:
        if "mslk" in str(error):
            print_error(f"{first_line(error)}; {WRONG_MSLK}")
            return 2
        if error.errno not in NO_SPACE:
            raise
        _discard_output()
        print_error(
            f"cannot write the output: {error.strerror}; make space, or write to another disk"
        )
        code = 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print_error(
            f"{str(error) or 'out of memory'}; the model and its pictures must fit: lower"
            " `search.batch_size` in the study, close other programs, or use another --device"
        )
        code = 1
    return code


def _may_pass(error: UserError) -> bool:
    """Whether the same command may succeed later, though nobody does anything about it."""
    from sensitivity.search.patience import UnreachableError

    return isinstance(error, LostDatabaseError | UnreachableError)


def _print_ended(how: str) -> None:
    """Say that the command was ended from outside, and how to go on; one process of a host does."""
    if supervised() is None:
        print_ended(f"{how}; {_GOES_ON}: {same_command()}")
    elif not is_quiet():
        print_ended(f"{how}; {_GOES_ON}")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too little: Python's error, torch's for a GPU, or its allocator's."""
    torchs = type(error).__name__ == "OutOfMemoryError"  # torch is not imported here
    return isinstance(error, MemoryError) or torchs or "can't allocate memory" in str(error)


def _discard_output(stream: TextIO | None = None) -> None:
    """Point a stream, stdout if none is named, at nothing: it cannot be written, and Python would
    try again when it exits.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what stderr is when a line comes: while something moves on a terminal, rich puts
    lines above it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _FlagNaming(logging.Formatter):
    """Log lines of the library, with options instead of fields."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(name_flags(super().format(record)))


def _quiet_libraries() -> None:
    """Hide other libraries' notices about themselves; SENSITIVITY_DEBUG=1 keeps them."""
    if os.environ.get("SENSITIVITY_DEBUG"):
        return
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("torch.utils._pytree", "diffusers", "transformers", "torchao", "huggingface_hub"):
        logger = logging.getLogger(name)
        if logger.level != logging.ERROR:  # to set a level costs a walk over all loggers
            logger.setLevel(logging.ERROR)
    handler = _ToStderr()
    handler.setFormatter(_FlagNaming("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
