"""`models` and `doctor`: what ships, and what this machine can do."""

from sensitivity.cli._common import Json, app, choose_device, make_console, write_json
from sensitivity.spec import FormatName, StudySpec, list_studies, load_spec


@app.command()
def models(json_path: Json = None) -> None:
    """List the studies that come with the package, and what of their models is on this machine; nothing is downloaded."""
    from rich.table import Table

    from sensitivity.cached import local_copies

    console = make_console(json_path)
    specs = {name: load_spec(path) for name, path in list_studies().items()}
    here = {name: local_copies(spec) for name, spec in specs.items()}
    table = Table("study", "model", "denoiser", "on this machine", "about", box=None)
    for name, spec in specs.items():
        table.add_row(name, spec.model.hub or "-", "\n".join(spec.model.denoisers), here[name].value, spec.title)
    console.print(table)
    write_json({"models": [_entry(spec) | {"local": here[name].value} for name, spec in specs.items()]}, json_path)


def _entry(spec: StudySpec) -> dict[str, object]:
    model = spec.model
    return {
        "name": spec.name, "hub": model.hub, "revision": model.revision, "component": model.component, "components": list(model.denoisers), "title": spec.title,
        "search_prompts": len(spec.prompts.search), "held_out_prompts": len(spec.prompts.held_out),
    }  # fmt: skip


@app.command()
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, and which formats run natively."""
    import torch

    from sensitivity.environment import describe_environment
    from sensitivity.formats import get_format
    from sensitivity.native import mslk_advice

    console = make_console(json_path)
    device = choose_device(None)
    stamp = describe_environment(device)
    native = {name.value: get_format(name).native_refusal(torch.device(device)) for name in FormatName if name is not FormatName.BF16}
    for key, value in stamp.items():
        console.print(f"{key:14} {value}", highlight=False)
    for name, reason in native.items():
        console.print(f"{name:14} {'native' if reason is None else f'emulated only: {reason}'}", highlight=False, soft_wrap=True)
    if (advice := mslk_advice()) is not None:
        console.print(f"{'mslk':14} {advice}", highlight=False, soft_wrap=True, markup=False)
    write_json({"environment": stamp, "native": {n: r is None for n, r in native.items()}, "why_not": native}, json_path)
