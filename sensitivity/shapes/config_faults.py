"""Why did a run without weights fail: the settings, a missing component, configs that contradict
each other, or the lack of weights?

`explain_failures` turns an error of the run into one that says whom to ask. A pipeline that was
copied together from two models fails deep inside of a component, with shapes that do not fit; the
widths in its configs tell which components contradict each other.

    with explain_failures(spec, pipe, calls):
        pipe(**call)
    # ConfigMismatchError: the config of vae (latent_channels 32) in ./my-model seems to contradict
    # transformer (in_channels 16), ...

What it does not do: prove anything. With weights, the pipeline's own run decides.
"""

import inspect
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sensitivity.core.words import first_line
from sensitivity.errors import (
    ConfigMismatchError,
    MeasurementError,
    PipelineError,
    SensitivityError,
)
from sensitivity.models.config_files import config_folder
from sensitivity.models.missing_packages import lacks_package, missing_package
from sensitivity.models.picture_inputs import is_about_pictures, needs_picture
from sensitivity.shapes.component_calls import ComponentCalls
from sensitivity.spec.study_spec import StudySpec

WIDTHS = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "z_dim",
    "joint_attention_dim",
    "cross_attention_dim",
    "caption_channels",
    "text_dim",
    "text_embed_dim",
    "pooled_projection_dim",
    "hidden_size",
    "projection_dim",
)
"""Keys of configs that say how wide the tensors are that components pass to each other."""
SHAPE_WORDS = re.compile("shape|size|dimension|channels", re.IGNORECASE)
"""Words in torch's errors about shapes."""
ONE_TEXT = re.compile(r"`prompt`.*\bstr\b.*<class 'list'>")
"""An error of a pipeline that takes one text, and no list of them."""
SMALL_PIXELS = 64
"""Below this height or width, an error about shapes is the size's fault."""


@contextmanager
def explain_failures(spec: StudySpec, pipe: Any, calls: ComponentCalls) -> Iterator[None]:
    """Replace an error of the run by one that names its cause; errors of this library pass.

    Raises:
        MissingPackageError: the pipeline's code needs a package that is not installed.
        NeedsPictureError: it needs a picture, too.
        PipelineError: a component is missing, or the pipeline refuses the settings.
        ConfigMismatchError: configs seem to contradict each other.
        MeasurementError: anything else; it says how far the run got.
    """
    try:
        yield
    except SensitivityError:
        raise
    except Exception as error:
        raise _explained(spec, pipe, calls, error) from error


def _explained(
    spec: StudySpec, pipe: Any, calls: ComponentCalls, error: Exception
) -> SensitivityError:
    name = type(pipe).__name__
    if missing_package(error) is not None:
        return lacks_package(name, error)
    reason = f"{type(error).__name__}: {first_line(error, most=300)}"
    call = inspect.signature(type(pipe).__call__).parameters
    if is_about_pictures(name, call, str(error)):
        return needs_picture(spec.name, name, call, pipe.components, reason)
    if ONE_TEXT.search(reason):
        return PipelineError(
            f"{name} takes one text in a call, and a study gives it a list of them ({reason});"
            " expected a pipeline that generates from several prompts at once: name one"
        )
    if "output_type" in reason or "output type" in reason:
        return PipelineError(
            f"{name} does not return its pictures or clips as tensors ({reason}); expected a"
            " pipeline of pictures or videos from text: name one"
        )
    absent = [key for key, part in pipe.components.items() if part is None]
    if absent and _is_about_none(error) and not calls.failed_inside:
        return PipelineError(
            f"{name} does not run without one of {', '.join(absent)}, for which model_index.json of"
            f" {config_folder(spec)} names no class; expected a folder with the config of each"
            f" component that a run uses ({reason}): add it"
        )
    frames = traceback.extract_tb(error.__traceback__)
    is_shape = isinstance(error, RuntimeError | ValueError | ArithmeticError | LookupError)
    if (
        (is_shape and not isinstance(error, NotImplementedError) and _is_small(spec))
        or _is_argument_error(error, calls)
        or any(frame.name == "check_inputs" for frame in frames)
    ):
        return PipelineError(
            f"{name} does not run with the settings {spec.settings} ({reason}); expected what its"
            " call accepts: correct `[settings]` in a study TOML, or the options of the command"
        )
    is_about_shapes = isinstance(error, RuntimeError | ValueError) and SHAPE_WORDS.search(reason)
    if is_about_shapes and calls.latest:
        modules = {key: x for key, x in pipe.components.items() if isinstance(x, nn.Module)}
        fault = describe_contradiction(spec, modules, calls.latest, calls.failed_inside, reason)
        return ConfigMismatchError(f"{name}: {fault}")
    where = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"
    return MeasurementError(
        f"{name} could not be run without weights: {reason} at {where}; {calls.progress}. Profile"
        " the loaded model with `sensitivity.profile_module`, and report the pipeline"
    )


def _is_about_none(error: Exception) -> bool:
    return isinstance(error, AttributeError) and "NoneType" in str(error)


def _is_small(spec: StudySpec) -> bool:
    sizes = (spec.settings.get(key) for key in ("height", "width"))
    return any(isinstance(size, int) and size < SMALL_PIXELS for size in sizes)


def _is_argument_error(error: Exception, calls: ComponentCalls) -> bool:
    """Whether the pipeline's own code, outside of its components, could not use what it was
    given."""
    kinds = ArithmeticError | LookupError | TypeError | ValueError
    return isinstance(error, kinds) and not calls.failed_inside


def describe_contradiction(
    spec: StudySpec,
    modules: Mapping[str, nn.Module],
    called: Sequence[str],
    inside: bool,
    reason: str,
) -> str:
    """Say which component's config seems to contradict which, where shapes do not fit.

    Args:
        spec: the study.
        modules: {name: component of the pipeline}.
        called: names of the called components, by their latest calls. The last one failed, or its
            output did.
        inside: whether it failed inside of that component.
        reason: the error in brief. A component one of whose widths it mentions is suspected before
            others.
    """
    at, before = called[-1], list(called[:-1])
    coders = [name for name, part in modules.items() if hasattr(part, "decode")]
    if at in coders:
        others = before[-1:]  # a decoder gets what the component before it made
    else:
        others = [*(before if inside else []), *(name for name in coders if name not in called)]
    numbers = {int(number) for number in re.findall(r"\d+", reason)}
    others = [name for name in others if numbers & set(_widths(modules[name]).values())] or others
    against = ([] if inside and others else ["itself"]) + [
        _with_widths(name, modules[name]) for name in others
    ]
    return (
        f"the config of {_with_widths(at, modules[at])} in {config_folder(spec)} seems to"
        f" contradict {' or '.join(against)}, or the settings {spec.settings} ({reason}); expected"
        " configs and settings of one model: copy the wrong config again, or report the pipeline if"
        " it runs with its weights"
    )


def _with_widths(name: str, part: nn.Module) -> str:
    widths = ", ".join(f"{key} {width}" for key, width in _widths(part).items())
    return f"{name} ({widths})" if widths else name


def _widths(part: nn.Module) -> dict[str, int]:
    """The `WIDTHS` in a component's config.

    A config of several modalities has them in its text part. The in- and out-channels of a VAE are
    left out: they are those of pictures, which no other component gets.
    """
    config: Any = getattr(part, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    of_pictures = ("in_channels", "out_channels") if hasattr(part, "decode") else ()
    found = {key: getattr(config, key, None) for key in WIDTHS if key not in of_pictures}
    return {key: width for key, width in found.items() if isinstance(width, int)}
