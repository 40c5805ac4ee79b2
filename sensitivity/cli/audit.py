"""`audit`: is somebody's list right for a model?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensitivity.cli.app import app, complete_study, make_console, step, tell_of_other_denoisers
from sensitivity.cli.options import (
    BatchSize,
    Frames,
    Guidance,
    Height,
    Json,
    Model,
    OneFormat,
    PromptTokens,
    Settings,
    Steps,
    Target,
    Width,
    one_of,
    run_options,
)
from sensitivity.cli.outputs import check_apart, check_writable, write_json
from sensitivity.core.format_name import FormatName, parse_formats
from sensitivity.errors import UserError
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import MOST

if TYPE_CHECKING:
    from rich.console import Console

    from sensitivity.workflows.audit.auditing import Audit

FAIL_ON = ("error", "warning", "never")
WIDTH = 100


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
    typer.Option(help="Linears with K or N below it stay bf16 too, as in published filters."),
]
BesideRecipe = Annotated[
    Path | None, typer.Option(help="Recipe JSON whose price stands beside the list's.")
]
Fix = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Write the list without its faults: an unverified recipe where the path ends in .json,"
            " else globs with reasons, for --as glob."
        )
    ),
]
FailOn = Annotated[
    str,
    typer.Option(help="Findings that make the exit code 1: error, warning (errors too), or never."),
]
Vary = Annotated[
    bool,
    typer.Option(
        "--vary/--no-vary", help="Also profile another batch size and other prompt lengths."
    ),
]
Storage = Annotated[
    Path | None,
    typer.Option(
        help="Database of the study with layer sensitivities. Default: sensitivity-runs/<study>.db."
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="With --as filter-fn: import and run the function's module."),
]


@app.command()
def audit(
    listed: List,
    model: Model,
    form: Form = None,
    fmt: OneFormat = None,
    min_width: MinWidth = None,
    target: Target = None,
    recipe: BesideRecipe = None,
    fix: Fix = None,
    fail_on: FailOn = "error",
    vary: Vary = True,
    storage: Storage = None,
    allow_code: AllowCode = False,
    batch_size: BatchSize = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    prompt_tokens: PromptTokens = None,
    guidance: Guidance = None,
    steps: Steps = None,
    settings: Settings = None,
    json_path: Json = None,
) -> None:
    """Check a list that somebody wrote against a model, as its consumer would read it.

    No weights are needed.

    Exits with 0 where there is nothing that --fail-on names, with 1 where there is, with 2 on a
    mistake of yours.
    """
    spec = resolve_spec(model)
    fmt_name = _checked(
        fmt,
        fail_on,
        min_width,
        {"--fix": fix, "--json": json_path},
        {"LIST": Path(listed), "--recipe": recipe},
    )
    options = run_options(
        batch_size=batch_size,
        height=height,
        width=width,
        frames=frames,
        prompt_tokens=prompt_tokens,
        guidance=guidance,
        steps=steps,
        settings=settings,
    )
    console = _narrow(make_console(json_path))
    with step(console, "loading libraries"):
        from sensitivity.cli.render.audit import audit_report, summary_line
        from sensitivity.workflows.audit.auditing import AuditRequest, audit_list
        from sensitivity.workflows.audit.reading import read_source

    source = read_source(listed, form=form, allow_code=allow_code, format=fmt_name)
    spec = complete_study(console, spec, options=options)
    request = AuditRequest(
        source=source,
        format=fmt_name,
        min_width=min_width,
        target=target,
        recipe=recipe,
        storage=storage,
        vary=vary,
        options=options,
    )
    with step(console, f"auditing {source.name}"):
        done = audit_list(spec, request)
    console.print(audit_report(done))
    tell_of_other_denoisers(done.subject.model.spec, done.subject.model.run)
    if fix is not None:
        _write_fixed(console, done, fix)
    failed = done.failed(fail_on)
    console.print(
        f"{summary_line(done)}: exits with {int(failed)} (--fail-on {fail_on})",
        highlight=False,
        markup=False,
    )
    write_json(done.to_json(), json_path)
    if failed:
        raise typer.Exit(1)


def _checked(
    fmt: list[str] | None,
    fail_on: str,
    min_width: int | None,
    outputs: dict[str, Path | str | None],
    inputs: dict[str, Path | None],
) -> FormatName:
    """The format.

    Raises UserError for values that an option does not have, and for results that cannot be written
    or would replace what is read.
    """
    formats = parse_formats(fmt or ["nvfp4"])
    if len(formats) > 1:
        raise UserError(
            f"--format is given {len(formats)} times; a list has one format for what it quantizes"
            " without saying to what: give one"
        )
    one_of("--fail-on", fail_on, FAIL_ON)
    if min_width is not None and not 0 <= min_width <= MOST:
        raise UserError(f"--min-width is {min_width}; allowed is 0 to {MOST}: correct it")
    for flag, path in outputs.items():
        check_writable(path, flag)
    check_apart(outputs, inputs)
    return formats[0]


def _narrow(console: "Console") -> "Console":
    """In a pipe the report is as wide as a page."""
    console.width = console.width if console.is_terminal else WIDTH
    return console


def _write_fixed(console: "Console", done: "Audit", path: Path) -> None:
    """The fixed list as an unverified recipe or as globs."""
    from sensitivity.core.json_files import write_whole
    from sensitivity.workflows.audit.auditing import fixed_recipe, fixed_text

    if path.suffix == ".json":
        fixed_recipe(done).save(path)
    else:
        write_whole(path, fixed_text(done).encode())
    console.print(f"fixed: {path}", highlight=False, markup=False, soft_wrap=True)
