"""From `--model` and its companions to a study: by name, with changes, derived where none is known.

spec = named_study("tiny-flux", prompts=Path("mine.txt"))     # cheap: reads a TOML
spec = complete_study(console, spec)                          # derives what a bare model lacks
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sensitivity.cli.file_checks import check_writable, keep_apart
from sensitivity.cli.options import run_options
from sensitivity.cli.screen import error_console, print_line, print_notice, print_warning, step
from sensitivity.errors import OutputError

if TYPE_CHECKING:
    from sensitivity.shapes.shape_run import ShapeRun
    from sensitivity.spec.overrides import RunOptions
    from sensitivity.spec.study_spec import StudySpec


def find_study(model: str) -> "StudySpec":
    """The study that `--model` names. No output of the command may be a file that it reads.

    Raises:
        UserError: there is no such study, or an output is one of its files.
    """
    from sensitivity.spec.loading import resolve_spec
    from sensitivity.spec.shipped import study_of_hub

    spec = resolve_spec(model)
    if (study := study_of_hub(model.partition("@")[0])) is not None and spec.model.hub is not None:
        named = study if spec.name == study else f"{study}, at another revision than its own"
        print_notice(f"{model} is the study {named}; `sensitivity models show {study}` shows it")
    source = spec.prompts.source
    prompts = None if source is None else source.path
    files = (
        spec.model.path,
        spec.model.config,
        spec.fidelity.weights,
        spec.pricing.target,
        prompts,
    )
    keep_apart(("--model", path) for path in files)
    return spec


def named_study(
    model: str,
    prompts: Path | None = None,
    save: Path | None = None,
    *,
    weights: str = "pretrained",
    net: str | None = None,
    tell: bool = True,
) -> "StudySpec":
    """The study that `--model` names, with the prompts of a file. Nothing heavy is loaded.

    What was read of a user's file of prompts is printed, unless `tell` is False.

    Raises:
        UserError: the model, the prompts or a path cannot be used.
    """
    from sensitivity.spec.overrides import (
        random_notice,
        with_net,
        with_prompts,
        with_random_weights,
    )
    from sensitivity.spec.prompts import read_prompts

    spec = find_study(model)
    spec = with_random_weights(spec) if weights == "random" else spec
    spec = with_net(spec, net) if net is not None else spec
    if spec.model.random_seed is not None:
        print_notice(random_notice(spec))
    if prompts is not None:
        spec = with_prompts(spec, read_prompts(prompts))
    read = spec.prompts.source
    if tell and read is not None and (prompts is not None or model.endswith(".toml")):
        chosen, kept = len(spec.prompts.search), len(spec.prompts.held_out)
        how = "as it says" if read.kind == "TOML" else "evenly spread over it"
        print_notice(f"{read.describe()}; {chosen} choose, {how}, and {kept} are held out")
    if save is not None:
        if save.suffix != ".toml":
            raise OutputError(
                f"--save-study {save} does not end in .toml; expected a name that --model takes:"
                f" {save.name}.toml"
            )
        check_writable(save, "--save-study")
    return spec


def complete_study(
    console: Console,
    spec: "StudySpec",
    save: Path | None = None,
    *,
    options: "RunOptions | None" = None,
    show: bool = False,
) -> "StudySpec":
    """The study with a command's options, derived from the model's config files where it is bare.

    Args:
        console: shows that config files are being read.
        spec: the study.
        save: TOML to write the study to.
        options: what the command changes of the run and the study; it comes before what is
            derived.
        show: print a derived study; otherwise only what could not be derived is printed.
    """
    from sensitivity.shapes.deriving import derive
    from sensitivity.shapes.run import with_options
    from sensitivity.spec.overrides import RunOptions, study_keys
    from sensitivity.spec.saving import save_study, study_toml
    from sensitivity.spec.study_keys import with_keys

    spec = spec if options in (None, RunOptions()) else with_options(spec, options)
    with step(console, f"reading the configs of {spec.name}") if spec.bare else nullcontext():
        derived = derive(spec)
    if spec.bare and options is not None:  # what was derived may have replaced keys
        said = with_keys(derived.spec, study_keys(options.settings))
        derived = replace(derived, spec=said)
    if spec.bare and show:
        text = study_toml(derived.spec, derived.heading)
        print_line(error_console(), text, style="dim")
    else:
        for note in derived.notes:
            print_notice(f"{derived.spec.name}: {note}")
    if save is not None:
        saved = save_study(derived.spec, save, derived.heading)
        print_line(error_console(), f"study: {saved}")
    return derived.spec


def with_run(spec: "StudySpec", steps: int | None, settings: list[str] | None) -> "StudySpec":
    """The study with `--steps` and `--set`.

    Raises:
        UserError: the pipeline does not take a value or an argument.
    """
    from sensitivity.spec.overrides import study_keys
    from sensitivity.spec.study_keys import with_keys

    keys = study_keys(settings or ())
    if steps is None and len(keys) == len(settings or ()):
        return with_keys(spec, keys)
    from sensitivity.shapes.run import with_options

    return with_options(spec, run_options(settings=settings, steps=steps))


def warn_of_rounding(console: Console, spec: "StudySpec", effective: Mapping[str, object]) -> None:
    """Warn where the pipeline rounds a size that was asked for, or has a longer template than the
    prompt that was, and say how tokens were spread among experts.
    """
    from sensitivity.spec.call_names import FRAMES

    for key in ("height", "width", *FRAMES):
        asked, used = spec.settings.get(key), effective.get(key)
        if asked is not None and used is not None and asked != used:
            print_warning(
                console,
                f"{key} {asked} was asked for, the pipeline generates {used}; the shapes are those"
                f" of {used}",
            )
    tokens, used = spec.pricing.prompt_tokens, effective.get("prompt_tokens")
    if "prompt_tokens" in spec.pricing.model_fields_set and used not in (None, tokens):
        print_warning(
            console,
            f"a prompt of {tokens} tokens was asked for, the pipeline's template alone has as many;"
            f" the shapes are those of {used}",
        )
    if "routing" in effective:
        print_notice(
            f"rows of experts are their share of the tokens ({effective['routing']}); in a run"
            " they vary with the prompt"
        )


def tell_of_other_weights(run: "ShapeRun") -> None:
    """Say which weights of the denoisers are no Linears', where they are more than next to none."""
    from sensitivity.shapes.experts import describe_besides

    if words := describe_besides(run.other_weights, run.weight_values):
        print_notice(words)


def tell_of_other_denoisers(spec: "StudySpec", run: "ShapeRun") -> None:
    """Say which denoisers of the pipeline have Linears that are not in the run's table."""
    if not run.other_denoisers:
        return
    parts = run.table.run.components if run.table.run is not None else ()
    calls = {part.component: part.calls for part in parts}
    others = ", ".join(f"{name} (called {calls.get(name, 0)} x)" for name in run.other_denoisers)
    print_notice(
        f"{spec.name} has more than one denoiser; the Linears of {others} are not treated here:"
        f" `sensitivity profile --component {run.other_denoisers[0]}` shows them,"
        " `model.components` in a study TOML treats them together"
    )
