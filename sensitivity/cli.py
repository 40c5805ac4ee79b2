"""The command line: a thin skin. Each command parses, makes one library call, prints what came back.

Exit codes: 0 success, 2 the caller can mend it (the message says value found, what is allowed, next step), 1 anything else. With `--json -` stdout
holds the JSON and nothing else; all other text goes to stderr. Heavy libraries are imported inside the commands, so that `--help` is quick.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sensitivity.errors import MeasurementError, OutputError, SensitivityError, UserError
from sensitivity.spec import FormatName, check_budget, list_studies, load_spec, parse_formats, resolve_spec

# the root of all parsing errors: click's own class, or that of the copy of click inside newer typers
ParsingError: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="sensitivity", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Find, by measurement, which Linear layers of a diffusion transformer to quantize and which to leave in bf16.",
)  # fmt: skip

INTERRUPTED = 130  # what typer returns for Ctrl-C

Model = Annotated[
    str, typer.Option("--model", "-m", help="A study's name, a study TOML, a diffusers pipeline folder, or a Hub id org/name.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", "-f", help="nvfp4, mxfp8 or fp8; given several times, each group chooses among them. Default: nvfp4."),
]
Json = Annotated[
    str | None, typer.Option("--json", help="Write the result as JSON to this path; '-' for stdout, everything else then goes to stderr.")
]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="Where torch runs: cpu, cuda, cuda:N. Default: cuda if there is one, else cpu.")
]
Target = Annotated[str | None, typer.Option("--target", "-t", help="The GPU that is priced, such as b200. Default: the study's.")]


def main() -> None:
    """Entry point: runs the app and turns errors into exit codes."""
    _quiet_libraries()
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code == 130:  # newer typers make this of Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        _complain(str(error))
        code = 2
    except SensitivityError as error:
        _complain(str(error))
        code = 1
    except ParsingError as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; finished work is kept, the same command goes on")
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        _complain(
            f"{error}; the model and its pictures must fit: lower `batch_size` in the study, close other programs, or use another --device"
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> None:
    Console(stderr=True).print(f"error: {text}", style="red", highlight=False, markup=False, soft_wrap=True)


def _quiet_libraries() -> None:
    """Other libraries' notices about themselves are not about the user's model. SENSITIVITY_DEBUG=1 keeps them."""
    if os.environ.get("SENSITIVITY_DEBUG"):
        return
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("torch.utils._pytree", "diffusers", "transformers", "torchao", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def _console(json_path: str | None) -> Console:
    """Where a command prints; tables in a pipe are as wide as they need to be."""
    console = Console(stderr=json_path == "-")
    if not console.is_terminal:
        console.width = 140
    return console


def _write_json(data: dict[str, Any], path: str | None) -> None:
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from sensitivity.strict_json import write_whole

    write_whole(path, text.encode())


def _check_writable(path: Path | str | None, flag: str) -> None:
    """Raise OutputError now rather than after minutes of work."""
    if path is None or path == "-":
        return
    path = Path(path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{flag} {path}: the folder {folder} cannot be made ({error.strerror}); name a path in a folder that can be written"
        ) from None
    if path.exists() and not path.is_file():
        reason = "is a folder" if path.is_dir() else "is not a regular file"
        raise OutputError(f"{flag} {path} {reason}; name a file in a folder that can be written")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"{flag} {path} lies in {folder}, which cannot be written ({error.strerror}); name a file in a folder that can be written"
        ) from None


def _check_apart(files: dict[str, Path | None]) -> None:
    """Raise OutputError where two options name one file: the later result would replace the earlier one."""
    seen: dict[Path, str] = {}
    for flag, path in files.items():
        if path is not None and (other := seen.setdefault(path.resolve(), flag)) != flag:
            raise OutputError(f"{flag} {path} is the file of {other}; allowed is a file for each: name another")


def _device(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    with console.status(text) if console.is_terminal else _nothing():
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@app.command()
def models(json_path: Json = None) -> None:
    """List the studies that come with the package."""
    from rich.table import Table

    console = _console(json_path)
    specs = {name: load_spec(path) for name, path in list_studies().items()}
    table = Table("study", "model", "component", "about", box=None)
    for name, spec in specs.items():
        table.add_row(name, spec.model.hub or "ships with the package", spec.model.component, spec.title)
    console.print(table)
    _write_json(
        {"models": [{"name": n, "hub": s.model.hub, "component": s.model.component, "title": s.title} for n, s in specs.items()]}, json_path
    )


@app.command()
def doctor(json_path: Json = None) -> None:
    """Say what this machine can do: devices, versions, and which formats run natively."""
    import torch

    from sensitivity.environment import describe_environment
    from sensitivity.formats import get_format, mslk_advice

    console = _console(json_path)
    device = _device(None)
    stamp = describe_environment(device)
    native = {name.value: get_format(name).native_refusal(torch.device(device)) for name in FormatName if name is not FormatName.BF16}
    for key, value in stamp.items():
        console.print(f"{key:14} {value}", highlight=False)
    for name, reason in native.items():
        console.print(f"{name:14} {'native' if reason is None else f'emulated only: {reason}'}", highlight=False, soft_wrap=True)
    if (advice := mslk_advice()) is not None:
        console.print(f"{'mslk':14} {advice}", highlight=False, soft_wrap=True, markup=False)
    _write_json({"environment": stamp, "native": {n: r is None for n, r in native.items()}, "why_not": native}, json_path)


@app.command()
def profile(
    model: Model,
    batch_size: Annotated[int | None, typer.Option(help="Pictures in the profiled run. Default: the study's priced batch size.")] = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Run the pipeline once under forward hooks and show every Linear's M, K, N."""
    spec = resolve_spec(model)
    _check_writable(json_path, "--json")
    console = _console(json_path)
    with _step(console, f"profiling {spec.name}"):
        from sensitivity import workflow
        from sensitivity.report.tables import profile_table

        table = workflow.profile_study(spec, device=_device(device), batch_size=batch_size)
    console.print(profile_table(table))
    _write_json(table.to_json(), json_path)


@app.command()
def latency(
    model: Model,
    target: Target = None,
    fmt: Formats = None,
    skip: Annotated[Path | None, typer.Option(help="File of Linears that stay bf16: one exact FQN or glob a line, # comments.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe JSON whose formats are priced.")] = None,
    bf16_seconds: Annotated[float | None, typer.Option(help="Measured seconds of the whole bf16 run: anchors the total.")] = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Predict the seconds of a skip-list or recipe on a GPU, shape by shape."""
    spec = resolve_spec(model)
    formats = parse_formats(fmt or ["nvfp4"])
    if skip is not None and recipe is not None:
        raise UserError("--skip and --recipe are both given; allowed is one of them: both say what stays bf16")
    if len(formats) > 1:
        raise UserError(
            f"--format is given {len(formats)} times; a skip-list has one quantized format: give one, or price a recipe with --recipe"
        )
    _check_writable(json_path, "--json")
    console = _console(json_path)
    with _step(console, f"profiling and pricing {spec.name}"):
        from sensitivity import pricing
        from sensitivity.report.tables import latency_table

        estimate, dead = pricing.price(
            spec, device=_device(device), target=target, fmt=formats[0], skip=skip, recipe=recipe, bf16_seconds=bf16_seconds
        )
    console.print(latency_table(estimate))
    for pattern in dead:
        console.print(f"warning: {pattern!r} of the skip file matches no Linear", style="yellow", markup=False, highlight=False)
    _write_json(estimate.to_json(), json_path)


@app.command()
def search(
    model: Model,
    budget: Annotated[int, typer.Option("--budget", "-b", help="Trials: skip-lists whose pictures are generated.")] = 50,
    fmt: Formats = None,
    target: Target = None,
    max_lpips: Annotated[float | None, typer.Option(help="Choose the fastest skip-list with at most this LPIPS.")] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Choose the skip-list of least LPIPS with at least this speedup, such as 1.3.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Recipe file. Default: recipes/<study>-<formats>-<target>.json.")] = None,
    storage: Annotated[Path | None, typer.Option(help="SQLite database of the study. Default: sensitivity-runs/<study>.db.")] = None,
    granularity: Annotated[str, typer.Option(help="What changes format together: group (role x depth band) or layer.")] = "group",
    sampler: Annotated[str, typer.Option(help="What proposes skip-lists: knapsack, tpe, nsga2 or random.")] = "knapsack",
    calibrate: Annotated[bool, typer.Option(help="Measure layer sensitivities first and let them guide the proposals.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the proposals.")] = 0,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Search skip-lists by predicted latency and LPIPS against bf16, verify the winner on held-out prompts, write its recipe."""
    spec = resolve_spec(model)
    check_budget(budget)
    formats = parse_formats(fmt or ["nvfp4"])
    _one_of("--granularity", granularity, ("group", "layer"))
    _one_of("--sampler", sampler, ("knapsack", "tpe", "nsga2", "random"))
    console = _console(json_path)
    target = target or spec.pricing.target
    recipe_path = out or Path("recipes") / f"{spec.name}-{'+'.join(formats)}-{target}.json"
    _check_writable(recipe_path, "--out")
    _check_writable(json_path, "--json")
    _check_apart({"--storage": storage, "--out": recipe_path, "--json": None if json_path in (None, "-") else Path(str(json_path))})
    with _step(console, "loading libraries"):
        from sensitivity import workflow
        from sensitivity.report.progress import SearchProgress
        from sensitivity.report.tables import fixed_table, front_table
        from sensitivity.search.sampler import SamplerName

    request = workflow.SearchRequest(
        formats=formats, budget=budget, target=target, seed=seed, sampler=SamplerName(sampler), granularity="layer" if granularity == "layer" else "group",
        calibrated=calibrate, max_lpips=max_lpips, min_speedup=min_speedup, storage=storage, device=_device(device),
    )  # fmt: skip
    with SearchProgress(console, budget=budget) as progress:
        outcome = workflow.find_recipe(spec, request, events=progress.events, say=progress.say, verifying=progress.verifying)
    console.print(fixed_table(outcome.prepared.candidates.fixed))
    console.print(front_table(outcome))
    if outcome.result.interrupted:
        raise KeyboardInterrupt
    if outcome.recipe is None:
        raise MeasurementError(f"none of the {outcome.result.failed} trials finished; the study's database has the reasons")
    outcome.recipe.save(recipe_path)
    console.print(_closing(outcome, recipe_path, budget), highlight=False, markup=False, soft_wrap=True)
    _write_json(json.loads(outcome.recipe.to_json()), json_path)


def _closing(outcome: Any, path: Path, budget: int) -> str:
    """The last lines of a search: the winner in words and where it lies."""
    recipe, chosen, held_out = outcome.recipe, outcome.chosen, outcome.held_out
    thumb = next((t for t in outcome.result.trials if t.label == "rule of thumb"), None)
    winner = held_out[chosen.index]
    scale = f" at {recipe.latency.stands_for} x its dimensions" if recipe.latency.stands_for > 1 else ""
    lines = [
        f"chosen: {chosen.label or f'trial {chosen.index}'}, {recipe.latency.speedup:.3f}x ({recipe.latency.source} for {recipe.latency.target}{scale}), held-out LPIPS "
        f"{winner.mean:.4f} [{winner.ci95[0]:.4f}, {winner.ci95[1]:.4f}], {len(recipe.skip)} of {len(recipe.layers)} Linears stay bf16"
    ]
    if thumb is not None and thumb.index in held_out and thumb.index != chosen.index:
        speedup = outcome.prepared.candidates.bf16_s / thumb.latency_s
        lines.append(f"rule of thumb: {speedup:.3f}x, held-out LPIPS {held_out[thumb.index].mean:.4f}")
    if len(outcome.result.trials) < budget:
        lines.append(f"{len(outcome.result.trials)} of {budget} trials: no skip-list was found that had not been tried")
    if outcome.result.failed:
        lines.append(f"{outcome.result.failed} trials failed; the study's database has the reasons")
    lines.append(f"recipe: {path}")
    return "\n".join(lines)


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{flag} is {value!r}; allowed are {', '.join(allowed)}: choose one of them")


@app.command()
def export(
    recipe: Annotated[Path, typer.Argument(help="Recipe JSON, as `search` writes it.")],
    to: Annotated[str, typer.Option("--to", help="skip-list, torchao or diffusers.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")] = None,
    json_path: Json = None,
) -> None:
    """Write a recipe in the form that another tool reads, proven to name exactly the recipe's layers."""
    from sensitivity.exporters import get_exporter
    from sensitivity.recipe import load_recipe
    from sensitivity.strict_json import write_whole

    exporter = get_exporter(to)
    text = exporter.export(load_recipe(recipe))
    if out is not None:
        write_whole(out, text.encode())
        _console(json_path).print(f"{exporter.name}: {out}", highlight=False, markup=False, soft_wrap=True)
    elif json_path != "-":
        sys.stdout.write(text)
    _write_json({"to": exporter.name, "path": str(out) if out else None, "text": text}, json_path)


@app.command()
def verify(
    recipe: Annotated[Path, typer.Argument(help="Recipe JSON, as `search` writes it.")],
    model: Model,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Apply a recipe to its model by emulation, draw the held-out prompts again and compare with what the recipe says."""
    from sensitivity.recipe import load_recipe

    loaded, spec = load_recipe(recipe), resolve_spec(model)
    _check_writable(json_path, "--json")
    console = _console(json_path)
    with _step(console, f"verifying {recipe}"):
        from sensitivity import workflow

        score = workflow.verify_recipe(loaded, spec, device=_device(device))
    said = loaded.fidelity.lpips
    console.print(
        f"held-out LPIPS {score.mean:.4f} [{score.ci95[0]:.4f}, {score.ci95[1]:.4f}] by emulation now; the recipe says {said.mean:.4f} "
        f"({'the same' if tuple(said.per_prompt) == score.per_prompt else 'difference ' + format(abs(score.mean - said.mean), '.2g')})",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    _write_json({"lpips": score.mean, "ci95": list(score.ci95), "per_prompt": list(score.per_prompt), "recipe_lpips": said.mean}, json_path)


if __name__ == "__main__":
    main()
