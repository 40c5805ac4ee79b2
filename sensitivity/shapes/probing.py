"""At which settings does a pipeline run that nobody has described yet?

`probe` runs it without weights for two steps: at its own default size, else at smaller ones, until
a run succeeds. It gives the sizes that the pipeline generates and the names of the denoiser's
Linears.

    seen = probe(spec, "transformer", {"num_inference_steps": 28}, call)
    seen.settings       # {"height": 1024, "width": 1024, "num_inference_steps": 28}
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sensitivity.errors import (
    MeasurementError,
    MissingPackageError,
    NeedsPictureError,
    PipelineError,
)
from sensitivity.models.skeleton import build_component
from sensitivity.shapes.call_arguments import SIZES
from sensitivity.shapes.experts import describe_besides, routers, values_of, weights_besides
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.call_names import argument_of, frames_in
from sensitivity.spec.study_spec import StudySpec

STEPS = 2
USUAL_PIXELS = 1024
"""The height and width that are tried first, and then halved, where the call has no default."""
SMALLEST_PIXELS = 64
"""The smallest height or width that is tried."""
PIXEL_STEP = 32
"""Heights and widths that are tried are multiples of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What the runs showed.

    Attributes:
        settings: settings that run; those that were tried first, if none do.
        fqns: of the denoiser's Linears.
        routers: those that choose among experts.
        besides: what is said of weights that are no Linears'; "" if nothing is.
        failure: why the run with the pipeline's own defaults failed; "" if it did not.
        ran: whether any run succeeded.
        is_video: whether the pipeline makes clips.
        needs_tiling: whether its VAE decodes in tiles only.
    """

    settings: dict[str, Any]
    fqns: tuple[str, ...]
    routers: tuple[str, ...]
    besides: str
    failure: str
    ran: bool
    is_video: bool
    needs_tiling: bool = False


def probe(
    spec: StudySpec, component: str, settings: Mapping[str, Any], call: Mapping[str, Any]
) -> Probe:
    """Run a pipeline without weights until it succeeds.

    Args:
        spec: a bare study. If its settings have a size, that size alone is tried.
        component: the denoiser.
        settings: what is known of the settings.
        call: {argument of the pipeline's call: its default}.
    """
    few_steps = {} if _steps_are_fixed(call) else {"num_inference_steps": STEPS}
    failure = ""
    for changed in _attempts(settings, call, is_sized=bool(spec.settings.keys() & {*SIZES})):
        tried = spec.model_copy(update={"settings": {**settings, **changed, **few_steps}})
        try:
            table, tiled = _run(tried, component)
        except (MissingPackageError, NeedsPictureError):
            raise
        except (MeasurementError, PipelineError) as error:
            failure = failure or str(error).partition(";")[0][:300]
            continue
        generated = {
            key: size
            for key in SIZES
            if key in call and isinstance(size := table.settings.get(key), int)
        }
        return Probe(
            settings={**generated, **settings, **changed},
            fqns=table.fqns,
            **_experts(build_component(spec, component)),
            failure=failure,
            ran=True,
            is_video=frames_in(table.settings) is not None,
            needs_tiling=tiled,
        )
    part = build_component(spec, component)
    return Probe(
        settings=dict(settings),
        fqns=tuple(fqn for fqn, own in part.named_modules() if isinstance(own, nn.Linear)),
        **_experts(part),
        failure=failure,
        ran=False,
        is_video=argument_of("frames", call) is not None,
    )


def _experts(part: nn.Module) -> dict[str, Any]:
    """What `Probe` says of a denoiser's experts."""
    return {
        "routers": routers(part),
        "besides": describe_besides(weights_besides(part), values_of(part)),
    }


def _steps_are_fixed(call: Mapping[str, Any]) -> bool:
    """Whether a call takes no number of steps, or has a default with one value for each step."""
    steps = call.get("num_inference_steps")
    lists = [value for value in call.values() if isinstance(value, list | tuple)]
    return steps is None or any(len(values) == steps for values in lists)


def _run(spec: StudySpec, component: str) -> tuple[ShapeTable, bool]:
    """The table of a run, and whether it decoded in tiles.

    Tiles are used where the VAE can do nothing else, as Allegro's.
    """
    try:
        return run_shapes(spec, component=component, batch_size=1).table, spec.model.vae_tiling
    except (MeasurementError, PipelineError) as error:
        if "tiling" not in str(error) or spec.model.vae_tiling:
            raise
    tiled = spec.model_copy(update={"model": spec.model.model_copy(update={"vae_tiling": True})})
    return run_shapes(tiled, component=component, batch_size=1).table, True


def _attempts(
    settings: Mapping[str, Any], call: Mapping[str, Any], *, is_sized: bool
) -> Iterator[dict[str, Any]]:
    """Changes of the settings to try, one after the other.

    None; a negative prompt, which some calls need though they have no default for it; sizes that
    are not rounded to a table of usual ones; a usual size where the call has no default; half the
    size, a quarter, ... Sizes stay as they are where the user gave one.
    """
    yield {}
    if call.get("negative_prompt", "") is None and "negative_prompt" not in settings:
        yield {"negative_prompt": " "}
    if is_sized:
        return
    exact = {"use_resolution_binning": False} if "use_resolution_binning" in call else {}
    if exact:
        yield exact
    asked = {key: settings.get(key, USUAL_PIXELS) for key in ("height", "width") if key in call}
    parts = (2, 4, 8, 16) if asked.keys() <= settings.keys() else (1, 2, 4, 8, 16)
    for part in parts:
        if asked and min(asked.values()) // part >= SMALLEST_PIXELS:
            sizes = {key: size // part // PIXEL_STEP * PIXEL_STEP for key, size in asked.items()}
            yield {**exact, **sizes}
