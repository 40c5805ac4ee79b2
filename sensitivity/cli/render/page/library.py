"""How does a notebook make a report, and draw it? One call each.

    report = sensitivity.report("tiny-flux", out="tiny-flux.html")     # as `sensitivity report`
    sensitivity.plot_front(report)                                     # a matplotlib Figure

The plots are those of `sensitivity report --png`. A Figure is shown by a notebook, with or without
its `%matplotlib`; elsewhere it is saved with `savefig`. They take a report, or what `report` takes.
"""

import os
from typing import Any

from sensitivity.cli.render.page.plots import (
    front_plot,
    jpeg_of,
    layers_plot,
    pictures_plot,
    png_of,
)
from sensitivity.core.json_files import write_whole
from sensitivity.core.storage_url import parse_storage
from sensitivity.errors import UserError
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.report import Report, Subject, collect_report, find_subject
from sensitivity.workflows.report.subject import subject_of_search

DOTS = 80
"""Dots an inch of a plot in a notebook."""
Reportable = Report | SearchOutcome | str | os.PathLike[str]
"""A report, or what `report` takes."""


def report(
    subject: SearchOutcome | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    study: str | None = None,
) -> Report:
    """Collect a report of a study or a recipe, and write it as one HTML page.

    Args:
        subject: what a search found; a recipe's file (.json); or a study: its name, TOML, folder or
            Hub id.
        out: where the page goes; None writes none.
        model: the study of a recipe whose study does not come with the package.
        storage: the study's database; None looks for it.
        study: the study's name, where a database holds several of the model.

    Returns:
        All that the page shows, as records.

    Raises:
        UserError: and its kinds: the subject cannot be found or read, or the extra `report` is not
            installed.
        OutputError: `out` cannot be written.
    """
    found = _subject(subject, model=model, storage=storage, study=study)
    collected = collect_report(found)
    if out is not None:
        from sensitivity.cli.render.page.page import render_page

        write_whole(out, render_page(collected).encode())
    return collected


def plot_front(subject: Reportable) -> Any:
    """Draw speedup over bf16 against typical LPIPS, a point for each skip-list that was tried.

    Args:
        subject: a report, or what `report` takes.

    Returns:
        A matplotlib Figure.

    Raises:
        UserError: matplotlib is not installed, nothing was tried, or as `report`.
    """
    return _shown(front_plot(_report_of(subject)), "a search's trials")


def plot_layers(subject: Reportable) -> Any:
    """Draw every Linear, a panel for each stack of blocks and a column for each role: the shade is
    its damage, the letter its format in the recipe.

    Args:
        subject: a report, or what `report` takes.

    Returns:
        A matplotlib Figure.

    Raises:
        UserError: matplotlib is not installed, no Linear is known, or as `report`.
    """
    return _shown(layers_plot(_report_of(subject)), "a model's Linears")


def plot_pictures(subject: Reportable, *, most: int | None = None) -> Any:
    """Draw pictures in bf16 beside those of the recipe, the prompts of largest LPIPS first.

    Args:
        subject: a report, or what `report` takes.
        most: how many prompts; None is 6.

    Returns:
        A matplotlib Figure.

    Raises:
        UserError: matplotlib is not installed, no pictures were kept, or as `report`.
    """
    figure = _checked(pictures_plot(_report_of(subject), most=most), "pictures that a search kept")
    figure._repr_jpeg_ = lambda: jpeg_of(figure, dots=DOTS)
    return figure


def _subject(
    subject: SearchOutcome | str | os.PathLike[str],
    *,
    model: str | None,
    storage: str | os.PathLike[str] | None,
    study: str | None,
) -> Subject:
    if isinstance(subject, SearchOutcome):
        return subject_of_search(subject)
    return find_subject(
        os.fspath(subject),
        model=model,
        storage=None if storage is None else parse_storage(os.fspath(storage)),
        study=study,
    )


def _report_of(subject: Reportable) -> Report:
    return subject if isinstance(subject, Report) else report(subject)


def _shown(figure: Any, needed: str) -> Any:
    """A figure that every notebook shows. One that is not pyplot's has no picture of its own."""
    checked = _checked(figure, needed)
    checked._repr_png_ = lambda: png_of(checked, dots=DOTS)
    return checked


def _checked(figure: Any, needed: str) -> Any:
    if figure is None:
        raise UserError(
            f"there is nothing to draw; expected {needed}: report a study, a recipe beside its"
            " database, or what a search found"
        )
    return figure
