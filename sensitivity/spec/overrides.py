"""How does a study change by what a user asks for? Other prompts, settings, weights or LPIPS net.

    with_net(with_random_weights(spec), "tiny")                       # for a dry run
    override_settings(spec, RunOptions(steps=4), call, "FluxPipeline")

Each function returns a changed copy; a study itself is frozen. Results of the copy are those of
another study.

What this module does not do: load a pipeline. `override_settings` is given the defaults of its
call.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.core.typed_fields import coerce_fields
from sensitivity.errors import UserError
from sensitivity.spec._base import MOST
from sensitivity.spec.call_names import NAMES, argument_of
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.shipped import studies_folder
from sensitivity.spec.study_keys import with_keys
from sensitivity.spec.study_spec import SETTINGS, StudySpec, is_setting, kind_of

MAX_COUNT = MOST
"""The largest size or number of a `RunOptions` field."""
NETS = ("alex", "vgg", "squeeze", "tiny")
"""The nets of LPIPS."""


def with_random_weights(spec: StudySpec, seed: int = 0) -> StudySpec:
    """The study with random weights, initialised from `seed`; no weights are read.

    A study that has random weights stays as it is.
    """
    if spec.model.random_seed is not None:
        return spec
    model = spec.model.model_copy(update={"weights": "random", "random_seed": seed})
    return spec.model_copy(update={"name": f"{spec.name}-random-weights", "model": model})


def random_notice(spec: StudySpec) -> str:
    """The warning for a study that has random weights."""
    return (
        f"{spec.name} has RANDOM weights (seed {spec.model.random_seed}), nothing was trained: its"
        " pictures, LPIPS, layer sensitivities and recipe say nothing about the model"
    )


def with_net(spec: StudySpec, net: str) -> StudySpec:
    """The study with another LPIPS net; the trunk of `tiny` comes with the package.

    Raises:
        UserError: the net is unknown.
    """
    if net not in NETS:
        raise UserError(f"`net` is {net!r}; expected one of {', '.join(NETS)}: correct it")
    trunk = studies_folder() / "tiny-flux" / "perceptual" / "trunk.safetensors"
    update = {"net": net, "weights": trunk if net == "tiny" else None}
    return spec.model_copy(update={"fidelity": spec.fidelity.model_copy(update=update)})


def with_prompts(spec: StudySpec, prompts: PromptSection) -> StudySpec:
    """The study with other prompts, whose pictures are generated in the order of the list."""
    search = spec.search.model_copy(update={"order": ()})  # it is an order of the old prompts
    return spec.model_copy(update={"prompts": prompts, "search": search})


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a user changes about one run of the pipeline; None leaves it as the study has it.

    Attributes:
        batch_size: pictures or videos in the run that is priced.
        height, width: of a picture, in pixels.
        frames: of a video.
        prompt_tokens: text tokens of the prompt, for a pipeline that does not pad.
        guidance: the guidance scale; 1 or less means no guidance.
        steps: denoising steps.
        settings: other arguments of the pipeline's call, as texts KEY=VALUE; or keys of the study
            with their section, as in "search.chunk=4".
    """

    batch_size: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    prompt_tokens: int | None = None
    guidance: float | None = None
    steps: int | None = None
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UserError for a value of another type."""
        coerce_fields(self)


_FIELDS = {name: field for field, names in NAMES.items() for name in names}
"""{argument of a pipeline's call: the field of `RunOptions` that sets it}."""


def override_settings(
    spec: StudySpec, options: RunOptions, call: Mapping[str, Any], pipeline: str
) -> StudySpec:
    """The study with a run's options in its settings.

    Args:
        spec: the study.
        options: what the user changes.
        call: {argument of the pipeline's call: its default}.
        pipeline: the name of the pipeline's class, for messages.

    Raises:
        UserError: a value is out of range, or the pipeline's call has no such argument.
    """
    priced = {"batch_size": options.batch_size, "prompt_tokens": options.prompt_tokens}
    asked = {
        "height": options.height,
        "width": options.width,
        "frames": options.frames,
        "steps": options.steps,
    }
    sizes = {argument_of(field, call) or NAMES[field][0]: x for field, x in asked.items()}
    for name, count in (priced | sizes).items():
        _check_count(_FIELDS.get(name, name), count)
    settings: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    if options.guidance is not None:
        settings |= _guidance(options.guidance, spec, call)
    named = named_values(options.settings)
    settings |= {name: value for name, value in named.items() if "." not in name}
    for name in settings:
        if name not in call:
            raise UserError(
                f"`{_FIELDS.get(name, 'settings')}` sets {name}, which the call of {pipeline} does"
                f" not have; expected one of {', '.join(_nearest(name, call))}: {_instead(name)}"
            )
    update = {name: count for name, count in priced.items() if count is not None}
    changed = spec.model_copy(
        update={
            "settings": spec.settings | settings,
            "pricing": spec.pricing.model_copy(update=update),
        }
    )
    return with_keys(changed, study_keys(options.settings))


def study_keys(texts: Iterable[str]) -> dict[str, Any]:
    """{key: value} of the texts KEY=VALUE whose keys have a section, such as search.chunk.

    Raises as `named_values`.
    """
    return {name: value for name, value in named_values(texts).items() if "." in name}


def named_values(texts: Iterable[str]) -> dict[str, Any]:
    """{key: value} of texts KEY=VALUE; the section `settings` is left out.

    Raises:
        UserError: a text is no KEY=VALUE, or its value is none that a study can hold.
    """
    return dict(_key_and_value(text) for text in texts)


def _nearest(name: str, call: Mapping[str, Any]) -> list[str]:
    """Arguments of a call whose names end as `name` does, or else all of them."""
    ending = name.partition("_")[2]
    alike = [other for other in call if ending and other.endswith(ending)]
    return alike if name in _FIELDS and alike else list(call)


def _instead(name: str) -> str:
    return "set it in `settings`, or leave it out" if name in _FIELDS else "leave it out"


def _check_count(field: str, count: int | None) -> None:
    if count is not None and (type(count) is not int or not 1 <= count <= MAX_COUNT):
        is_large = type(count) is int and count > MAX_COUNT
        expected = f"{MAX_COUNT} or less" if is_large else "1 or more"
        raise UserError(f"`{field}` is {count}; expected {expected}: correct it")


def _guidance(scale: float, spec: StudySpec, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the call that set the guidance scale.

    `true_cfg_scale` if the pipeline guides by it by default, or by nothing else. True CFG needs a
    negative prompt: " " if the study has none. Otherwise it is `guidance_scale`, or what the
    pipeline calls it, and the audio's where there is one.
    """
    if not 0 <= scale < math.inf:
        raise UserError(
            f"`guidance` is {scale}; expected 0 or more, where 1 or less means none: correct it"
        )
    default = call.get("true_cfg_scale")
    is_true_cfg = isinstance(default, int | float) and default > 1
    name = "true_cfg_scale" if is_true_cfg else argument_of("guidance", call)
    if name == "true_cfg_scale":
        lacks_negative = "negative_prompt" in call and "negative_prompt" not in spec.settings
        return {name: scale} | ({"negative_prompt": " "} if lacks_negative else {})
    audio = {"audio_guidance_scale": scale} if "audio_guidance_scale" in call else {}
    # Ideogram 4 takes a scale or one for each step, and has the latter by default
    by_step = {"guidance_schedule": None} if call.get("guidance_schedule") is not None else {}
    return {name or "guidance_scale": scale} | audio | by_step


def _key_and_value(text: str) -> tuple[str, Any]:
    """The key and the value of KEY=VALUE: a number, true, false, null or list of JSON, or else a
    text. The section `settings` is left out.
    """
    key, equals, value = text.partition("=")
    key = key.removeprefix("settings.")
    section, dot, name = key.partition(".")
    if not (equals and section.isidentifier() and (name.isidentifier() or not dot)):
        raise UserError(
            f"`settings` {text!r}; expected KEY=VALUE with an argument of the pipeline's call, such"
            " as max_sequence_length=256, or a key of the study with its section, such as"
            " search.chunk=4: correct it"
        )
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    if not is_setting(parsed):
        raise UserError(
            f"`settings` {text[:200]!r} has {kind_of(parsed)}; expected {SETTINGS}: correct it"
        )
    return key, parsed
