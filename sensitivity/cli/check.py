"""`sensitivity check`: a gate for continuous integration."""

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from sensitivity.cli.app import command
from sensitivity.cli.audit import Form
from sensitivity.cli.early_checks import check_fits
from sensitivity.cli.judge_options import JudgeNames, StatedObjective, judge_bounds
from sensitivity.cli.memory_option import memory_bytes
from sensitivity.cli.options import (
    ArithmeticName,
    DeviceName,
    Emulate,
    Json,
    LpipsNet,
    Model,
    OneFormat,
    Prompts,
    Weights,
    choose_device,
    one_format,
)
from sensitivity.cli.outputs import save_recipe, write_file, write_json
from sensitivity.cli.screen import make_console, print_line, step
from sensitivity.cli.study import complete_study, named_study

RecipeOrList = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|LIST",
        help="Recipe JSON, or a file with a list in any form that `sensitivity audit` reads.",
    ),
]
MaxLpipsHere = Annotated[
    float | None,
    typer.Option(help="Fails where the mean LPIPS is larger, as expected over other prompts."),
]
MaxTypicalHere = Annotated[
    float | None, typer.Option(help="Fails where the typical LPIPS (geometric mean) is larger.")
]
MaxFlipsHere = Annotated[
    int | None,
    typer.Option(help="Fails where more of the gate's prompts become another picture."),
]
MinSpeedupHere = Annotated[
    float | None,
    typer.Option(
        help=(
            "Fails where the speedup over bf16 is smaller: measured where the GPU has the recipe's"
            " formats, else predicted for the recipe's target."
        )
    ),
]
MaxMemoryHere = Annotated[
    str | None,
    typer.Option(
        help=(
            "Fails where the peak of GPU memory in a run is larger, as 24GB or 22GiB; measured or"
            " predicted, as the speedup."
        )
    ),
]
MaxJudgeHere = Annotated[
    list[str] | None,
    typer.Option(
        "--max-judge",
        help=(
            "Fails where a judge's mean over the prompts is larger, as flip=0.05; may be given"
            " several times."
        ),
    ),
]
MinJudgeHere = Annotated[
    list[str] | None,
    typer.Option(
        "--min-judge",
        help="The same for judges where higher is better, as ssim=0.9, if the mean is smaller.",
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Another recipe of the model, such as the last release's. Fails where the typical LPIPS"
            " is significantly larger, prompt by prompt."
        )
    ),
]
TimeHere = Annotated[
    bool,
    typer.Option(
        help="Time whole runs for a bound on speedup or memory, where the GPU has the formats."
    ),
]
OutWithGate = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Write the recipe, or that of the list, with a record of this check to this path.",
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        help="Write the result as JUnit XML to this path, a test case for each criterion."
    ),
]


@command
def check(
    listed: RecipeOrList,
    model: Model,
    prompts: Prompts = None,
    weights: Weights = "pretrained",
    net: LpipsNet = None,
    form: Form = None,
    fmt: OneFormat = None,
    arithmetic: ArithmeticName = None,
    emulate: Emulate = False,
    max_lpips: MaxLpipsHere = None,
    max_typical: MaxTypicalHere = None,
    max_flips: MaxFlipsHere = None,
    min_speedup: MinSpeedupHere = None,
    max_memory: MaxMemoryHere = None,
    judges: JudgeNames = None,
    max_judge: MaxJudgeHere = None,
    min_judge: MinJudgeHere = None,
    objective: StatedObjective = None,
    against: Against = None,
    time: TimeHere = True,
    device: DeviceName = None,
    out: OutWithGate = None,
    junit: Junit = None,
    json_path: Json = None,
) -> None:
    """Check a recipe or a list against bounds, as a gate of continuous integration.

    Draws the held-out prompts and compares them with bf16's. Exits with 0 where every bound is
    kept, with 1 where one is broken, with 2 on a mistake of yours, with 3 where none is broken and
    one cannot be decided, as by too few prompts.
    """
    spec = named_study(model, prompts, weights=weights, net=net)
    fmt_name = one_format(fmt, "a list has one format for what it quantizes without saying to what")
    console, most_bytes = make_console(json_path), memory_bytes(max_memory)
    with step(console, "loading libraries"):
        from sensitivity.cli.render.check import EXIT_CODES, check_lines
        from sensitivity.recipes.recipe import load_recipe
        from sensitivity.search.front import Constraints
        from sensitivity.workflows.check import check_recipe
        from sensitivity.workflows.check_subject import read_subject
        from sensitivity.workflows.gate import Drawing, Gate, check_gate, with_gate

    gate = Gate(
        constraints=Constraints(
            max_lpips=max_lpips,
            max_typical=max_typical,
            max_flips=max_flips,
            min_speedup=min_speedup,
            max_memory_bytes=most_bytes,
            max_judge=judge_bounds(max_judge, "max_judge"),
            min_judge=judge_bounds(min_judge, "min_judge"),
        ),
    )
    check_gate(gate, compares=against is not None)
    other = None if against is None else load_recipe(against)
    spec, began = complete_study(console, spec), perf_counter()
    with step(console, f"checking {listed}"):
        recipe = read_subject(listed, spec, form=form, format=fmt_name)
        check_fits(recipe, spec)
        found = check_recipe(
            recipe,
            spec,
            gate,
            Drawing(
                device=choose_device(device),
                arithmetic=arithmetic,
                emulate=emulate,
                judges=tuple(judges or ()),
                objective=objective,
            ),
            against=other,
            timed=time,
            say=lambda text: print_line(console, text, style="dim"),
        )
    for text, style in check_lines(found):
        print_line(console, text, style=style)
    if out is not None:
        save_recipe(with_gate(found), out)
    if junit is not None:
        from sensitivity.cli.render.junit import junit_xml

        write_file(junit, junit_xml(found, seconds=perf_counter() - began).encode())
    write_json(found.to_json(), json_path)
    if code := EXIT_CODES[found.decision]:
        raise typer.Exit(code)
