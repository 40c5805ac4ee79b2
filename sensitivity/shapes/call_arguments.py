"""What is a pipeline called with, and which settings did the run then have?

`call_arguments` checks a study's settings against the pipeline's call. `effective_settings` adds
what the call filled in: its defaults, and the sizes that it generated, which may differ from those
that were asked for where a pipeline rounds them.

    with asked_sizes(pipe) as asked:
        out = pipe(**call_arguments(spec, pipe, batch=1))
    effective_settings(spec, pipe, asked, out)      # {"height": 992, ..., "prompt_tokens": None}
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from sensitivity.errors import PipelineError, SpecError
from sensitivity.models.media import pictures_and_clips
from sensitivity.models.token_counts import PROMPT, counts_of
from sensitivity.spec.call_names import FRAMES, argument_of, check_one_per_prompt
from sensitivity.spec.study_spec import StudySpec

SIZES = ("height", "width", *FRAMES)
OURS = ("self", "prompt", "generator", "output_type", "return_dict")
"""Arguments that a study cannot set."""
COUNTS = {
    **dict.fromkeys(SIZES, 2**16),
    "num_inference_steps": 10**4,
    "max_sequence_length": 2**16,
}
"""{argument that is a count: the largest value that is accepted}."""
SHOWN = (
    *SIZES,
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "distilled_guidance_scale",
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
    check_one_per_prompt(spec.name, spec.settings)
    for key, value in spec.settings.items():
        _check_setting(spec, key, value, accepted[key])
    call: dict[str, Any] = {"prompt": [PROMPT] * batch, **spec.settings}
    if isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]] * batch
    ours = {"output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return call | {key: value for key, value in ours.items() if key in accepted}


def _check_setting(spec: StudySpec, key: str, value: object, asked: inspect.Parameter) -> None:
    """Raise SpecError for a count out of range, or a type that the pipeline does not annotate.

    None is right where it is the default, whatever the annotation.
    """
    most = COUNTS.get(key)
    if value is None and asked.default is None:
        return
    if most is not None:
        is_right = type(value) is int and 1 <= value <= most
        expected = f"a whole number from 1 to {most}"
    else:
        is_right = _is_annotated(value, asked.annotation)
        annotation = inspect.formatannotation(asked.annotation)
        expected = f"the type in the pipeline's call, {annotation}"
    if not is_right:
        shown = "null" if value is None else repr(value)[:200]
        raise SpecError(
            f"{spec.name}: {key} is {shown}; expected {expected}: correct `[settings]` in the study"
            " TOML, or the options of the command"
        )


def _is_annotated(value: object, annotation: Any) -> bool:
    """Whether an annotation allows a value's type. One that names no plain type allows all."""
    kinds = {annotation, *get_args(annotation)}
    is_vague = (
        isinstance(annotation, str)
        or bool(kinds & {Any, inspect.Parameter.empty})
        or any(get_origin(kind) is Literal for kind in kinds)
    )
    if is_vague:
        return True
    if value is None:
        return type(None) in kinds
    if isinstance(value, list):
        return any(_holds(value, kind) for kind in kinds)
    fitting = {int, float} if type(value) in (int, float) else {type(value)}
    return bool(kinds & {bool, int, float, str} & fitting)


def _holds(values: list[Any], annotation: Any) -> bool:
    """Whether an annotation is of lists or tuples, and of these values."""
    if annotation in (list, tuple):
        return True
    if get_origin(annotation) not in (list, tuple, Sequence):
        return False
    of = [kind for kind in get_args(annotation) if kind is not Ellipsis]
    return all(any(_is_annotated(value, kind) for kind in of) for value in values)


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
    settings |= {**asked, **spec.settings, **_generated_sizes(out, parameters)}
    empty = [f"{key} {settings[key]}" for key in SIZES if settings.get(key) == 0]
    if empty:
        raise PipelineError(
            f"{type(pipe).__name__} generates nothing with the settings {spec.settings}:"
            f" {', '.join(empty)}; expected sizes of at least one token: raise them in"
            " `[settings]`, or with the options of the command"
        )
    first = [key for key in SHOWN if key in settings]
    others = [key for key in settings if key not in SHOWN]
    return {key: settings[key] for key in (*first, *others)} | _text_lengths(spec, pipe)


def _text_lengths(spec: StudySpec, pipe: Any) -> dict[str, int]:
    """The tokens that prompts had in a run.

    They are those that the study declares, unless the pipeline's template alone has more, or the
    negative prompt is the pipeline's own. Padded texts have one length. How much of it is text
    matters only to a denoiser that is given a mask.
    """
    declared, counts = spec.pricing, counts_of(pipe)
    prompt, negative = declared.prompt_tokens, declared.negative_prompt_tokens
    if counts is not None:
        with_mask = _takes_mask(spec, pipe)
        prompt = counts.kept("prompt", with_mask=with_mask) or prompt
        negative = counts.kept("negative prompt", with_mask=with_mask) or negative
    return {"prompt_tokens": prompt, "negative_prompt_tokens": negative}


def _takes_mask(spec: StudySpec, pipe: Any) -> bool:
    """Whether a denoiser is told which tokens of a text are padding."""
    denoisers = [getattr(pipe, name, None) for name in spec.model.denoisers]
    parameters = (inspect.signature(type(x).forward).parameters for x in denoisers if x is not None)
    return any("mask" in name for names in parameters for name in names)


def _generated_sizes(out: Any, call: Mapping[str, Any]) -> dict[str, int]:
    """Height, width and frames of what a pipeline returned, where that is a tensor of pictures (B,
    C, H, W) or clips (B, F, C, H, W). Frames have the name that the pipeline's call has for them.
    """
    pictures = next((shown for shown in pictures_and_clips(out) if shown is not None), None)
    if (
        not isinstance(pictures, Tensor)
        or pictures.ndim not in (4, 5)
        or pictures.shape[-3] not in (1, 3, 4)
    ):
        return {}
    sizes = {"height": pictures.shape[-2], "width": pictures.shape[-1]}
    frames = argument_of("frames", call) or FRAMES[0]
    return sizes | ({frames: pictures.shape[1]} if pictures.ndim == 5 else {})
