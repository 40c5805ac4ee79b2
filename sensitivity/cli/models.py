"""`sensitivity models`: what ships, what of it is on this machine, and what a study says."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sensitivity.cli.app import command
from sensitivity.cli.options import Json, Settings, run_options
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, print_line
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sensitivity.spec.study_spec import StudySpec

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
            from sensitivity.spec.shipped import list_studies

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
    from sensitivity.cli.render.studies import studies_table
    from sensitivity.models.local_copies import local_copies
    from sensitivity.spec.loading import load_spec
    from sensitivity.spec.shipped import list_studies

    console = make_console(json_path)
    specs = {name: load_spec(path) for name, path in list_studies().items()}
    here = {name: local_copies(spec) for name, spec in specs.items()}
    console.print(studies_table(specs, here))
    write_json(
        {"models": [_entry(spec) | {"local": here[name].value} for name, spec in specs.items()]},
        json_path,
    )


def _show(model: str, settings: list[str] | None, json_path: str | None) -> None:
    """Every key of a study, with its value and its origin."""
    from sensitivity.cli.render.studies import keys_table
    from sensitivity.cli.study import complete_study, find_study, with_run
    from sensitivity.spec.overrides import named_values
    from sensitivity.spec.study_keys import effective_keys

    console = make_console(json_path)
    named = find_study(model)
    if named.bare:
        spec = complete_study(console, named, options=run_options(settings=settings))
    else:
        spec = with_run(named, None, settings)
    changed = {key if "." in key else f"settings.{key}" for key in named_values(settings or ())}
    keys = effective_keys(spec, derived=named.bare, set_keys=changed)
    print_line(console, f"{spec.name}: {spec.title}" if spec.title else spec.name)
    console.print(keys_table(keys))
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


def _entry(spec: "StudySpec") -> dict[str, object]:
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
