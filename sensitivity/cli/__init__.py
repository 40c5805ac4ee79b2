"""The command line: a thin skin.

Each command parses, makes one library call, prints what came back.

Exit codes: 0 success, 2 the caller can mend it (the message says value found, what is allowed, next
step), 1 anything else. With `--json -` stdout holds the JSON and nothing else; all other text goes
to stderr. Heavy libraries are imported inside the commands, so that `--help` is quick.
"""

import errno
import logging
import os
import sys
from typing import Any

import typer
from rich.console import Console

# isort: off
# Importing a file registers its command; the help lists the commands in this order.
from sensitivity.cli import (  # noqa: F401
    models,
    doctor,
    profile,
    latency,
    calibrate,
    search,
    verify,
    select,
    export,
    diff,
    audit,
)

# isort: on
from sensitivity.cli.app import app
from sensitivity.errors import SensitivityError, UserError

__all__ = ["app", "main"]

# the root of all parsing errors: click's own class, or that of the copy of click inside newer
# typers
ParsingError: type[Any] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

INTERRUPTED = 130  # what typer returns for Ctrl-C
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Entry point: runs the app and turns errors into exit codes."""
    _quiet_libraries()
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - None where it was closed
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except UserError as error:
        _complain(str(error))
        code = 2
    except SensitivityError as error:
        _complain(str(error))
        code = 1
    except ParsingError as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; finished work is kept, the same command goes on")
        code = 1
    except BrokenPipeError:
        _drop_output()
        code = 1
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        _drop_output()
        _complain(
            f"cannot write the output: {error.strerror}; make space, or write to another disk"
        )
        code = 1
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        _complain(
            f"{error}; the model and its pictures must fit: lower `batch_size` in the study, close"
            " other programs, or use another --device"
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """What is left of stdout goes nowhere: it cannot be written, and Python would try again at its
    end.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    Console(stderr=True).print(
        f"error: {text}", style="red", highlight=False, markup=False, soft_wrap=True
    )


def _quiet_libraries() -> None:
    """Other libraries' notices about themselves are not about the user's model.

    SENSITIVITY_DEBUG=1 keeps them.
    """
    if os.environ.get("SENSITIVITY_DEBUG"):
        return
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("torch.utils._pytree", "diffusers", "transformers", "torchao", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
