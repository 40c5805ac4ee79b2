"""`models` and `doctor`: what ships, and what this machine can do."""

from sensitivity.cli._common import Json, app, choose_device, make_console, write_json
from sensitivity.spec import FormatName, list_studies, load_spec


@app.command()
def models(json_path: Json = None) -> None:
    """List the studies that come with the package."""
    from rich.table import Table

    console = make_console(json_path)
    specs = {name: load_spec(path) for name, path in list_studies().items()}
    table = Table("study", "model", "component", "about", box=None)
    for name, spec in specs.items():
        table.add_row(name, spec.model.hub or "ships with the package", spec.model.component, spec.title)
    console.print(table)
    write_json(
        {"models": [{"name": n, "hub": s.model.hub, "component": s.model.component, "title": s.title} for n, s in specs.items()]}, json_path
    )


@app.command()
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, and which formats run natively."""
    import torch

    from sensitivity.environment import describe_environment
    from sensitivity.formats import get_format, mslk_advice

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
