"""`sensitivity models`: what ships, what of it is on this machine, and what a study says."""

import json
from typing import Annotated, Literal

import typer

from sensitivity.cli.app import command
from sensitivity.cli.options import Json, Settings, run_options
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line
from sensitivity.core.words import printable
from sensitivity.errors import UserError
from sensitivity.spec.loading import load_spec
from sensitivity.spec.overrides import named_values
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_keys import effective_keys
from sensitivity.spec.study_spec import StudySpec

MOST_CHARACTERS = 100
"""Of a value on the screen; JSON has all of it."""

Action = Annotated[
    Literal["list", "show"],
    typer.Argument(
        metavar="[list|show]",
        help="list: the studies that come with the package (the default). show: one study.",
    ),
]
StudyToShow = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="With show: a study's name, a study TOML, a folder, or a Hub id."
    ),
]


@command
def models(
    action: Action = "list",
    model: StudyToShow = None,
    settings: Settings = None,
    json_path: Json = None,
) -> None:
    """List the studies that come with the package, or show all that one says.

    `models` says what of each study's model is on this machine. `models show MODEL` prints every
    key of the study with its value and where it comes from; `--set` on any command changes one.
    Nothing is downloaded but the config files of a model that has no study.
    """
    if action == "show":
        if model is None:
            raise UserError(
                f"`models show` without a study; expected one of {', '.join(list_studies())}, a"
                " study TOML, a folder, or a Hub id: name it"
            )
        _show(model, settings, json_path)
        return
    if settings:
        raise UserError("--set changes one study; expected `models show MODEL --set ...`")
    _list(json_path)


def _list(json_path: str | None) -> None:
    from rich.table import Table

    from sensitivity.models.local_copies import local_copies

    console = make_console(json_path)
    specs = {name: load_spec(path) for name, path in list_studies().items()}
    here = {name: local_copies(spec) for name, spec in specs.items()}
    table = Table("study", "model", "denoiser", "on this machine", "about", box=None)
    for name, spec in specs.items():
        table.add_row(
            name,
            spec.model.hub or "-",
            "\n".join(spec.model.denoisers),
            here[name].value,
            spec.title,
        )
    console.print(table)
    write_json(
        {"models": [_entry(spec) | {"local": here[name].value} for name, spec in specs.items()]},
        json_path,
    )


def _show(model: str, settings: list[str] | None, json_path: str | None) -> None:
    """Every key of a study, with its value and its origin."""
    from rich.table import Table
    from rich.text import Text

    from sensitivity.cli.study import complete_study, find_study, with_run

    console = make_console(json_path)
    named = find_study(model)
    if named.bare:
        spec = complete_study(console, named, options=run_options(settings=settings))
    else:
        spec = with_run(named, None, settings)
    changed = {key if "." in key else f"settings.{key}" for key in named_values(settings or ())}
    keys = effective_keys(spec, derived=named.bare, set_keys=changed)
    print_line(console, f"{spec.name}: {spec.title}" if spec.title else spec.name)
    table = Table("key", "value", "origin", box=None)
    for entry in keys:
        table.add_row(entry.key, Text(printable(_words(entry.value))), entry.origin)
    console.print(table)
    print_line(
        console,
        "Arguments of the call that are not listed have the pipeline's own defaults.",
        style="dim",
    )
    write_json(
        {
            "name": spec.name,
            "title": spec.title,
            "keys": {entry.key: {"value": entry.value, "origin": entry.origin} for entry in keys},
        },
        json_path,
    )


def _words(value: object) -> str:
    """A value as JSON in one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_CHARACTERS:
        return text
    of = f" ({len(value)} in all)" if isinstance(value, list) else ""
    return f"{text[:MOST_CHARACTERS]}...{of}"


def _entry(spec: StudySpec) -> dict[str, object]:
    """One study of `models --json`."""
    model = spec.model
    return {
        "name": spec.name,
        "hub": model.hub,
        "revision": model.revision,
        "component": model.component,
        "components": list(model.denoisers),
        "title": spec.title,
        "search_prompts": len(spec.prompts.search),
        "held_out_prompts": len(spec.prompts.held_out),
    }
