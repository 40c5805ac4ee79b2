"""Which database does a command use? `--storage`, and the environment variable that stands for it.

    def search(storage: Storage = None) -> None:
        named_storage(storage)              # a path, the URL of a server, or None

A URL may hold a password, and other users of the machine see the arguments of a process: the
environment variable keeps it from them. Neither `--help` nor an error shows its value.
"""

from typing import Annotated, Any

import typer

from sensitivity.cli.ranks import STORAGE
from sensitivity.core import storage_url


def _option(text: str) -> Any:
    """The option with this help."""
    return typer.Option(
        "--storage", envvar=STORAGE, show_envvar=False, metavar="PATH|URL", help=text
    )


Storage = Annotated[
    str | None,
    _option(
        "Database of the study: an SQLite file, or postgresql://USER@HOST/DATABASE. Default:"
        f" what the environment variable {STORAGE} says, else sensitivity-runs/<study>.db."
    ),
]
StorageRead = Annotated[
    str | None,
    _option(
        "Database of the study, a file or a URL as for `search`. Default: looked for where"
        " searches keep it."
    ),
]
"""Of commands that only read what a search or a calibration kept."""
StorageOfAll = Annotated[
    str | None,
    _option(
        "The study's database: a file, or postgresql://USER@HOST/DATABASE. Default: what the"
        f" environment variable {STORAGE} says, else each file in sensitivity-runs/."
    ),
]
"""Of `status`, which shows every study that is here."""


def named_storage(storage: str | None) -> storage_url.Storage | None:
    """What `--storage` names: a path, or the URL of a server; None where it names nothing.

    Raises UserError as `core.storage_url.parse_storage`.
    """
    return None if storage is None else storage_url.parse_storage(storage)
