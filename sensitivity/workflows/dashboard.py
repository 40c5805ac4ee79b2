"""How is a study opened in optuna-dashboard? `dashboard_of`: a WSGI application over its database.

    extras = extras_of(report, note="...", figures={...}, trial_note=...)
    with opened_dashboard(database, {"tiny-flux-nvfp4-b200-1a2b3c4d": extras}) as application:
        serve(application)

It is read live, beside a search that runs, as `search.shown_storage` shows it: trials in words,
pictures that the search kept as artifacts of their trials, and what the caller adds. Nothing is
changed but notes that the user types.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sensitivity.core.storage_url import Storage
from sensitivity.errors import UserError
from sensitivity.search.database import Database
from sensitivity.search.shown_storage import Extras, PictureStore, ShownPicture, ShownStorage
from sensitivity.workflows.report import Report

PACKAGE = "optuna_dashboard"


def check_installed() -> None:
    """Raise UserError where optuna-dashboard is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            "optuna-dashboard is not installed; expected it: run `pip install optuna-dashboard`, or"
            " look at `sensitivity report`, which needs no server"
        )


def extras_of(
    report: Report,
    *,
    note: str,
    figures: Mapping[str, str],
    trial_note: Callable[[str, str], str],
) -> Extras:
    """What is shown of a study beside its trials.

    Args:
        report: of the study.
        note: Markdown about the study.
        figures: {id: a plotly figure as JSON}.
        trial_note: (name of a trial, how the address of its pictures begins) -> Markdown.
    """
    pictures: dict[str, list[ShownPicture]] = {}
    for place, scene in enumerate(report.gallery.scenes, 1):
        for name in scene.pictures:
            if name == "bf16":
                continue
            for shown in ("bf16", name):
                path = Path(report.gallery.folder) / scene.pictures[shown].file
                title = f"prompt {place}, {shown}"
                pictures.setdefault(name, []).append(
                    ShownPicture(key=picture_key(path.name), path=path, title=title)
                )
    return Extras(
        note=note,
        figures=figures,
        pictures=pictures,
        trial_note=trial_note,
        groups=tuple(group.name for group in report.groups),
        formats=report.formats,
        policies=report.policies,
    )


def picture_key(file: str) -> str:
    """What a kept picture is called in an address: its prompt and its list, in hexadecimal digits
    and hyphens.
    """
    return Path(file).stem


@contextmanager
def opened_dashboard(database: Storage, extras: Mapping[str, Extras]) -> Iterator[Any]:
    """The WSGI application of a database, for as long as it is served.

    Args:
        database: the file, or the URL of the server.
        extras: {study name: what is shown beside its trials}.

    Raises:
        UserError: optuna-dashboard is not installed, or the database cannot be read.
    """
    check_installed()
    import optuna_dashboard

    logging.getLogger(PACKAGE).setLevel(logging.CRITICAL)  # the traceback of each refused change
    with Database.read(database) as opened:
        storage = ShownStorage(opened, extras)
        yield optuna_dashboard.wsgi(storage, artifact_store=PictureStore(extras.values()))
