"""The command line: a thin skin over `sensitivity.workflows`.

Each command parses its options, makes one library call and prints what came back. With `--json -`
stdout holds the JSON and nothing else; all other text goes to stderr. Heavy libraries are imported
inside the commands, so that `--help` is quick.

`app.py` has the application, `entry.py` turns errors into exit codes, `flags.py` names options in
the library's messages; `options.py`, `study.py`, `screen.py` and `outputs.py` hold what commands
share; `render/` turns records into text. Every other file is a command.
"""

# isort: off
# Importing a file registers its command. The help lists the commands in this order.
from sensitivity.cli import (  # noqa: F401
    models,
    doctor,
    device,
    profile,
    latency,
    calibrate,
    search,
    worker,
    status,
    verify,
    check,
    select,
    export,
    diff,
    audit,
    report,
    dashboard,
)

# isort: on
from sensitivity.cli.app import app
from sensitivity.cli.entry import main

__all__ = ["app", "main"]
