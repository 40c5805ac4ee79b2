"""`sensitivity audit`: is somebody's list right for a model?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from sensitivity.cli.app import command
from sensitivity.cli.file_checks import keep_database_apart
from sensitivity.cli.memory_option import memory_bytes
from sensitivity.cli.options import (
    BatchSize,
    DeviceName,
    Frames,
    Guidance,
    Height,
    Json,
    Model,
    OneFormat,
    PromptTokens,
    RuntimeName,
    Settings,
    Steps,
    Target,
    Width,
    choose_device,
    one_format,
    run_options,
)
from sensitivity.cli.outputs import save_recipe, write_file, write_json
from sensitivity.cli.screen import make_console, print_line, step
from sensitivity.cli.storage_option import StorageRead, named_storage
from sensitivity.cli.study import complete_study, find_study, tell_of_other_denoisers
from sensitivity.core.format_name import Source

if TYPE_CHECKING:
    from sensitivity.spec.study_spec import StudySpec
    from sensitivity.workflows.audit import Audit, AuditRequest


def _a_width(value: int | None) -> int | None:
    """Callback of `--min-width`."""
    from sensitivity.spec.overrides import MAX_COUNT

    if value is not None and not 0 <= value <= MAX_COUNT:
        raise typer.BadParameter(f"found {value}, expected 0 to {MAX_COUNT}")
    return value


List = Annotated[
    str,
    typer.Argument(
        metavar="LIST",
        help=(
            "File with the list in any consumer's form; - for stdin; module:function with --as"
            " filter-fn."
        ),
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        "--as",
        help=(
            "How the list is read: substring, glob, regex, fqn, diffusers, torchao, modelopt, ..."
            " Default: guessed by its looks, else glob."
        ),
    ),
]
MinWidth = Annotated[
    int | None,
    typer.Option(
        callback=_a_width,
        help="Linears with K or N below it stay bf16 too, as in published filters.",
    ),
]
BesideRecipe = Annotated[
    Path | None, typer.Option(help="Recipe JSON whose price stands beside the list's.")
]
Fix = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Write the list without its faults: an unverified recipe where the path ends in .json,"
            " else globs with reasons, for --as glob. A list for vllm-omni, sglang or comfyui keeps"
            " its form, and becomes a recipe where the path ends in .recipe.json."
        )
    ),
]
FailOn = Annotated[
    Literal["error", "warning", "never"],
    typer.Option(
        "--fail-on",
        help="Findings that make the exit code 1: error, warning (errors too), or never.",
    ),
]
MaxMemoryHere = Annotated[
    str | None,
    typer.Option(
        help=(
            "Say whether a run keeps to this peak of GPU memory, as 24GB or 22GiB: an error where"
            " the predicted peak is larger, a warning where it is not by less than a prediction may"
            " lack."
        )
    ),
]
Vary = Annotated[
    bool,
    typer.Option(
        "--vary/--no-vary", help="Also profile another batch size and other prompt lengths."
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="With --as filter-fn: import and run the function's module."),
]


LatencyToAudit = Annotated[
    Source,
    typer.Option(
        "--latency",
        help=(
            "predicted, or measured: gains and prices come from shapes that are timed once on the"
            " GPU at hand, which must be the target."
        ),
    ),
]


@command
def audit(
    listed: List,
    model: Model,
    form: Form = None,
    fmt: OneFormat = None,
    min_width: MinWidth = None,
    target: Target = None,
    latency: LatencyToAudit = "predicted",
    runtime: RuntimeName = None,
    recipe: BesideRecipe = None,
    max_memory: MaxMemoryHere = None,
    fix: Fix = None,
    fail_on: FailOn = "error",
    vary: Vary = True,
    storage: StorageRead = None,
    allow_code: AllowCode = False,
    batch_size: BatchSize = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    prompt_tokens: PromptTokens = None,
    guidance: Guidance = None,
    steps: Steps = None,
    settings: Settings = None,
    device: DeviceName = None,
    json_path: Json = None,
) -> None:
    """Check a list that somebody wrote against a model, as its consumer would read it.

    No weights are needed. Exits with 0 where nothing is found that --fail-on names, with 1 where
    something is, with 2 on a mistake of yours.
    """
    spec = find_study(model)
    fmt_name = one_format(fmt, "a list has one format for what it quantizes without saying to what")
    options = run_options(
        batch_size, height, width, frames, prompt_tokens, guidance, steps, settings
    )
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.search.store import default_storage
        from sensitivity.workflows.audit import AuditRequest, read_source

    keep_database_apart(named_storage(storage) or default_storage(spec), "--storage")
    source = read_source(listed, form=form, allow_code=allow_code, format=fmt_name)
    spec = complete_study(console, spec, options=options)
    request = AuditRequest(
        source=source,
        format=fmt_name,
        min_width=min_width,
        target=target,
        runtime=runtime,
        recipe=recipe,
        max_memory_bytes=memory_bytes(max_memory),
        storage=named_storage(storage),
        vary=vary,
        options=options,
    )
    done = _audit(console, spec, request, latency, device)
    failed = _show(console, done, fail_on, fix)
    write_json(done.to_json(), json_path)
    if failed:
        raise typer.Exit(1)


def _audit(
    console: Console,
    spec: "StudySpec",
    request: "AuditRequest",
    source: Source,
    device: str | None,
) -> "Audit":
    """The audit; by shapes that are measured with progress, if `source` says so."""
    from sensitivity.workflows.audit import audit_list

    if source == "predicted":
        with step(console, f"auditing {request.source.name}"):
            return audit_list(spec, request)
    from sensitivity.cli.render.progress import ShapeProgress
    from sensitivity.workflows.audit.auditing import priced_formats
    from sensitivity.workflows.shape_table import pricer_at_hand

    with ShapeProgress(console) as progress:
        latency = pricer_at_hand(
            spec,
            "measured",
            target=request.target,
            device=choose_device(device),
            formats=priced_formats(request),
            measuring=progress.measuring,
        )
        return audit_list(spec, request, latency=latency)


def _show(console: Console, done: "Audit", fail_on: str, fix: Path | None) -> bool:
    """Print the report and write the fixed list; whether the command fails."""
    from sensitivity.cli.render.audit import audit_report, summary_line

    console.print(audit_report(done))
    tell_of_other_denoisers(done.subject.model.spec, done.subject.model.run)
    if fix is not None:
        _write_fixed(console, done, fix)
    failed = done.failed(fail_on)
    print_line(console, f"{summary_line(done)}: exits with {int(failed)} (--fail-on {fail_on})")
    return failed


def _write_fixed(console: Console, done: "Audit", path: Path) -> None:
    """The fixed list as an unverified recipe, in its own form, or as globs."""
    from sensitivity.workflows.audit import fixed_recipe, fixed_text, keeps_its_form

    ending = ".recipe.json" if keeps_its_form(done) else ".json"
    if path.name.endswith(ending):
        save_recipe(fixed_recipe(done), path)
    else:
        write_file(path, fixed_text(done).encode())
    print_line(console, f"fixed: {path}")
