"""What is a pipeline called with, and which settings did the run then have?

`call_arguments` checks a study's settings against the pipeline's call. `effective_settings` adds
what the call filled in: its defaults, and the sizes that it generated, which may differ from those
that were asked for where a pipeline rounds them.

    with asked_sizes(pipe) as asked:
        out = pipe(**call_arguments(spec, pipe, batch=1))
    effective_settings(spec, pipe, asked, out)      # {"height": 992, ..., "prompt_tokens": None}
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from sensitivity.errors import PipelineError, SpecError
from sensitivity.models.media import pictures_and_clips
from sensitivity.models.stand_in_tokenizer import PROMPT
from sensitivity.spec.study_spec import StudySpec

SIZES = ("height", "width", "num_frames")
PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")
OURS = ("self", "prompt", "generator", "output_type", "return_dict")
"""Arguments that a study cannot set."""
COUNTS = {
    "height": 2**16,
    "width": 2**16,
    "num_frames": 2**16,
    "num_inference_steps": 10**4,
    "max_sequence_length": 2**16,
    **dict.fromkeys(PER_PROMPT, 2**10),
}
"""{argument that is a count: the largest value that is accepted}."""
SHOWN = (
    *SIZES,
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "max_sequence_length",
    "frame_rate",
    "negative_prompt",
)
"""Arguments whose defaults belong to the settings of a run, in the order in which they are
shown."""


def call_arguments(spec: StudySpec, pipe: Any, batch: int) -> dict[str, Any]:
    """The arguments of a pipeline's call: the study's settings, `batch` prompts, and tensors as
    output.

    Raises:
        SpecError: a setting is no argument of the call, or has a value that it cannot have.
        PipelineError: the pipeline takes no prompt.
    """
    name, accepted = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    settable = [key for key in accepted if key not in OURS]
    unknown = [key for key in spec.settings if key not in settable]
    if unknown:
        raise SpecError(
            f"{spec.name}: settings {', '.join(unknown)} are no arguments of {name} that a study"
            f" sets; expected some of {', '.join(settable)}: correct `[settings]` in the study"
            " TOML, or the options of the command"
        )
    if "prompt" not in accepted:
        raise PipelineError(
            f"{name} takes no prompt; expected a pipeline that generates from text: name one"
        )
    for key, value in spec.settings.items():
        _check_setting(spec, key, value, accepted[key].annotation)
    call: dict[str, Any] = {"prompt": [PROMPT] * batch, **spec.settings}
    if isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]] * batch
    ours = {"output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return call | {key: value for key, value in ours.items() if key in accepted}


def _check_setting(spec: StudySpec, key: str, value: object, annotation: Any) -> None:
    """Raise SpecError for a count out of range, or a type that the pipeline does not annotate."""
    most = COUNTS.get(key)
    if most is not None:
        is_right = type(value) is int and 1 <= value <= most
        expected = f"a whole number from 1 to {most}"
    else:
        is_right = _is_annotated(value, annotation)
        expected = f"the type in the pipeline's call, {inspect.formatannotation(annotation)}"
    if not is_right:
        raise SpecError(
            f"{spec.name}: {key} is {value!r}; expected {expected}: correct `[settings]` in the"
            " study TOML, or the options of the command"
        )


def _is_annotated(value: object, annotation: Any) -> bool:
    """Whether an annotation allows a value's type. One that names no plain type allows all."""
    kinds = {annotation, *get_args(annotation)}
    is_vague = (
        isinstance(annotation, str)
        or bool(kinds & {Any, inspect.Parameter.empty})
        or any(get_origin(kind) is Literal for kind in kinds)
    )
    fitting = {int, float} if type(value) in (int, float) else {type(value)}
    return is_vague or bool(kinds & {bool, int, float, str} & fitting)


@contextmanager
def asked_sizes(pipe: Any) -> Iterator[dict[str, Any]]:
    """The sizes that a pipeline asks of itself while the context is open, defaults filled in: those
    that its own `check_inputs` is given.
    """
    asked: dict[str, Any] = {}
    check = getattr(pipe, "check_inputs", None)
    if check is None:
        yield asked
        return

    def note(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(check).bind(*args, **kwargs).arguments
        asked.update({key: bound[key] for key in SIZES if isinstance(bound.get(key), int)})
        return check(*args, **kwargs)

    pipe.check_inputs = note
    try:
        yield asked
    finally:
        del pipe.check_inputs


def effective_settings(
    spec: StudySpec, pipe: Any, asked: Mapping[str, Any], out: Any
) -> dict[str, object]:
    """The settings that a run had.

    Args:
        spec: the study.
        pipe: its pipeline.
        asked: sizes that the pipeline asked of itself.
        out: what the pipeline returned.

    Raises:
        PipelineError: a size is 0.
    """
    parameters = inspect.signature(type(pipe).__call__).parameters
    defaults = {key: p.default for key, p in parameters.items() if key in SHOWN}
    settings: dict[str, object] = {
        key: value for key, value in defaults.items() if isinstance(value, int | float | str)
    }
    settings |= {**asked, **spec.settings, **_generated_sizes(out)}
    empty = [f"{key} {settings[key]}" for key in SIZES if settings.get(key) == 0]
    if empty:
        raise PipelineError(
            f"{type(pipe).__name__} generates nothing with the settings {spec.settings}:"
            f" {', '.join(empty)}; expected sizes of at least one token: raise them in"
            " `[settings]`, or with the options of the command"
        )
    first = [key for key in SHOWN if key in settings]
    others = [key for key in settings if key not in SHOWN]
    return {key: settings[key] for key in (*first, *others)} | {
        "prompt_tokens": spec.pricing.prompt_tokens,
        "negative_prompt_tokens": spec.pricing.negative_prompt_tokens,
    }


def _generated_sizes(out: Any) -> dict[str, int]:
    """Height, width and frames of what a pipeline returned, where that is a tensor of pictures (B,
    C, H, W) or clips (B, F, C, H, W).
    """
    pictures = next((shown for shown in pictures_and_clips(out) if shown is not None), None)
    if (
        not isinstance(pictures, Tensor)
        or pictures.ndim not in (4, 5)
        or pictures.shape[-3] not in (1, 3, 4)
    ):
        return {}
    sizes = {"height": pictures.shape[-2], "width": pictures.shape[-1]}
    return sizes | ({"num_frames": pictures.shape[1]} if pictures.ndim == 5 else {})
