"""`sensitivity models`: what ships, and what of it is on this machine."""

from sensitivity.cli.app import command
from sensitivity.cli.options import Json
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_spec import StudySpec


@command
def models(json_path: Json = None) -> None:
    """List the studies that come with the package, and what of their models is on this machine.

    Nothing is downloaded.
    """
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
