"""How does a notebook make a report? `report`: one call, as `sensitivity report` makes it.

sensitivity.report("tiny-flux", out="tiny-flux.html")
"""

import os
from pathlib import Path

from sensitivity.core.json_files import write_whole
from sensitivity.workflows.report import Report, collect_report, find_subject


def report(
    subject: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    study: str | None = None,
) -> Report:
    """Collect a report of a study or a recipe, and write it as one HTML page.

    Args:
        subject: a recipe's file (.json), or a study: its name, TOML, folder or Hub id.
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
    found = find_subject(
        os.fspath(subject),
        model=model,
        storage=None if storage is None else Path(storage),
        study=study,
    )
    collected = collect_report(found)
    if out is not None:
        from sensitivity.cli.render.page.page import render_page

        write_whole(out, render_page(collected).encode())
    return collected
