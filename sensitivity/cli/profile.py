"""`sensitivity profile`: M, K and N of every Linear of a model."""

from typing import Annotated

import typer

from sensitivity.cli.app import command
from sensitivity.cli.options import (
    BatchSize,
    Frames,
    Guidance,
    Height,
    Json,
    Model,
    PromptTokens,
    SaveStudy,
    Settings,
    Steps,
    Width,
    run_options,
)
from sensitivity.cli.outputs import write_json
from sensitivity.cli.screen import make_console, step
from sensitivity.cli.study import (
    complete_study,
    named_study,
    tell_of_other_denoisers,
    tell_of_other_weights,
    warn_of_rounding,
)

Component = Annotated[
    str | None,
    typer.Option(help="Part whose Linears are shown, such as text_encoder. Default: the denoiser."),
]


@command
def profile(
    model: Model,
    component: Component = None,
    batch_size: BatchSize = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    prompt_tokens: PromptTokens = None,
    guidance: Guidance = None,
    steps: Steps = None,
    settings: Settings = None,
    save_study: SaveStudy = None,
    json_path: Json = None,
) -> None:
    """Run the pipeline once without weights and show every Linear's M, K, N."""
    spec = named_study(model, save=save_study)
    options = run_options(
        batch_size, height, width, frames, prompt_tokens, guidance, steps, settings
    )
    console = make_console(json_path)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.shapes import profile_table
        from sensitivity.shapes.run import run_shapes

    is_derived = spec.bare  # a derived study's notes have said it
    spec = complete_study(console, spec, save_study, options=options)
    with step(console, f"profiling {spec.name}"):
        run = run_shapes(spec, component=component)
    table = run.table
    console.print(profile_table(table))
    warn_of_rounding(console, spec, table.settings)
    tell_of_other_denoisers(spec, run)
    if not is_derived:
        tell_of_other_weights(run)
    write_json(table.to_json(), json_path)
