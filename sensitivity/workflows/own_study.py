"""How does a caller in Python make a study of a model, and look at its Linears?

    spec = make_study("my-model/", prompts=["a red boat", ...], height=512, width=512)
    profile_model(spec)                                     # M, K, N and calls of every Linear
    find_recipe(spec)

A study that comes with the package may be changed in the same way: `make_study("flux1-dev",
prompts="mine.txt")`. What is changed makes another study, with results of its own. No weights are
read; config files of a model on the Hub are downloaded where they are missing.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sensitivity.shapes.deriving import derive_study
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import spec_of
from sensitivity.spec.overrides import RunOptions, study_keys, with_net, with_prompts
from sensitivity.spec.prompts import list_prompts, read_prompts
from sensitivity.spec.study_keys import with_keys
from sensitivity.spec.study_spec import StudySpec


def make_study(
    model: StudySpec | str | os.PathLike[str],
    *,
    prompts: str | os.PathLike[str] | Sequence[str] | None = None,
    net: str | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> StudySpec:
    """A study of a model, with what the caller changes; None leaves what the study has.

    Args:
        model: a study, or what `resolve_spec` takes. Of a folder or a Hub id without a study, one
            is derived from the config files.
        prompts: a file of prompts, or the prompts themselves: a third of them choose, the others
            are held out.
        net: the net of LPIPS: alex, vgg, squeeze, or tiny.
        height, width: of a picture, in pixels.
        frames: of a video.
        guidance: the guidance scale; 1 or less means no guidance.
        steps: denoising steps.
        settings: {argument of the pipeline's call, or key of the study with its section: value},
            such as {"max_sequence_length": 256, "search.chunk": 4}.

    Raises:
        UserError: and its kinds: there is no such model, the prompts cannot be used, or the
            pipeline does not take a value.
    """
    from sensitivity.shapes.run import with_options  # loads diffusers

    spec = spec_of(model)
    if prompts is not None:
        if isinstance(prompts, str | os.PathLike):
            spec = with_prompts(spec, read_prompts(Path(prompts)))
        else:
            spec = with_prompts(spec, list_prompts(list(prompts)))
    if net is not None:
        spec = with_net(spec, net)
    options = RunOptions(
        height=height,
        width=width,
        frames=frames,
        guidance=guidance,
        steps=steps,
        settings=tuple(f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()),
    )
    if options == RunOptions():
        return derive_study(spec)
    derived = derive_study(with_options(spec, options))  # what is derived may replace keys
    return with_keys(derived, study_keys(options.settings))


def profile_model(
    model: StudySpec | str | os.PathLike[str], *, component: str | None = None
) -> ShapeTable:
    """Run a model's pipeline once without weights and return the shapes of its Linears.

    Args:
        model: the study, or what `resolve_spec` takes; it is derived where only its model is known.
        component: the part whose Linears are listed, such as "text_encoder"; None: the denoiser.

    Raises:
        UserError: and its kinds: there is no such model or component, or its pipeline cannot be
            made.
        MeasurementError: the pipeline cannot be run without weights.
    """
    from sensitivity.shapes.run import run_shapes

    return run_shapes(derive_study(spec_of(model)), component=component).table
