"""What a command changes of a study: settings of the run, prompts, random weights, the perceptual
net.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.errors import UserError
from sensitivity.spec.loading import studies_folder
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.study_spec import StudySpec

NETS = ("alex", "vgg", "squeeze", "tiny")


def with_random_weights(spec: StudySpec, seed: int = 0) -> StudySpec:
    """The study with weights that are drawn from `seed`, not read; one that has such weights is
    given back as it is.
    """
    if spec.model.random_seed is not None:
        return spec
    model = spec.model.model_copy(update={"weights": "random", "random_seed": seed})
    return spec.model_copy(update={"name": f"{spec.name}-random-weights", "model": model})


def with_net(spec: StudySpec, net: str) -> StudySpec:
    """The study with another LPIPS net; `tiny` is the trunk that comes with the package.

    Raises UserError for an unknown one.
    """
    if net not in NETS:
        raise UserError(f"--net is {net!r}; allowed are {', '.join(NETS)}: choose one of them")
    trunk = (
        studies_folder() / "tiny-flux" / "perceptual" / "trunk.safetensors"
        if net == "tiny"
        else None
    )
    return spec.model_copy(
        update={"fidelity": spec.fidelity.model_copy(update={"net": net, "weights": trunk})}
    )


def random_notice(spec: StudySpec) -> str:
    """What has to be said of a study whose weights are drawn."""
    said = "its pictures, LPIPS, layer sensitivities and recipe say nothing about the model"
    return (
        f"{spec.name} has RANDOM weights (seed {spec.model.random_seed}), nothing was trained:"
        f" {said}"
    )


MOST = 2**16
"""The largest number that an option of a run may count."""


def with_prompts(spec: StudySpec, prompts: PromptSection) -> StudySpec:
    """The study with other prompts, drawn in the order in which they are written: another study, as
    far as results are concerned.
    """
    return spec.model_copy(
        update={"prompts": prompts, "search": spec.search.model_copy(update={"order": ()})}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a command line says about the run that is profiled, None where it says nothing.

    `settings` are texts KEY=VALUE, arguments of the call.
    """

    batch_size: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    prompt_tokens: int | None = None
    guidance: float | None = None
    steps: int | None = None
    settings: tuple[str, ...] = ()


def override_settings(
    spec: StudySpec, options: RunOptions, call: Mapping[str, Any], pipeline: str
) -> StudySpec:
    """The study with a command line's options in its settings.

    `--guidance` is `true_cfg_scale` where that guides by default, `guidance_scale` elsewhere (and
    the audio's, where there is one). True CFG needs a negative prompt: " " where the study has
    none.

    Args:
        spec: the study.
        options: what was said.
        call: {argument of the pipeline's call: its default}.
        pipeline: the pipeline's class, for messages.

    Raises:
        UserError: a value is out of range, or the pipeline's call has no such argument.
    """
    counts = {"batch_size": options.batch_size, "prompt_tokens": options.prompt_tokens}
    sizes = {
        "height": options.height,
        "width": options.width,
        "num_frames": options.frames,
        "num_inference_steps": options.steps,
    }
    for name, count in (counts | sizes).items():
        if count is not None and not 1 <= count <= MOST:
            raise UserError(
                f"{_FLAGS[name]} is {count}; allowed is"
                f" {f'{MOST} or less' if count > MOST else '1 or more'}: correct it"
            )
    settings: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    if options.guidance is not None:
        if not 0 <= options.guidance < float("inf"):
            raise UserError(
                f"--guidance is {options.guidance}; allowed is 0 or more, 1 or less means none"
            )
        settings |= _guidance(options.guidance, spec, call)
    settings |= dict(_key_and_value(text) for text in options.settings)
    for name in settings:
        if name not in call:
            flag = _FLAGS.get(name, f"--set {name}")
            raise UserError(
                f"{flag} sets {name}, which the call of {pipeline} does not have; allowed are"
                f" {', '.join(call)}: leave it out"
            )
    priced = spec.pricing.model_copy(
        update={name: count for name, count in counts.items() if count is not None}
    )
    return spec.model_copy(update={"settings": spec.settings | settings, "pricing": priced})


_FLAGS = {
    "batch_size": "--batch-size",
    "prompt_tokens": "--prompt-tokens",
    "height": "--height",
    "width": "--width",
    "num_frames": "--frames",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "true_cfg_scale": "--guidance",
}


def _guidance(scale: float, spec: StudySpec, call: Mapping[str, Any]) -> dict[str, Any]:
    default = call.get("true_cfg_scale")
    if isinstance(default, int | float) and default > 1:
        more = (
            {"negative_prompt": " "}
            if "negative_prompt" in call and "negative_prompt" not in spec.settings
            else {}
        )
        return {"true_cfg_scale": scale} | more
    audio = {"audio_guidance_scale": scale} if "audio_guidance_scale" in call else {}
    return {"guidance_scale": scale} | audio


def _key_and_value(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON has it, else a text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise UserError(
            f"--set {text!r}; allowed is KEY=VALUE with an argument of the pipeline's call, such as"
            " --set max_sequence_length=256"
        )
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    if (
        not isinstance(parsed, int | float | str | bool)
        or parsed in (float("inf"), float("-inf"))
        or parsed != parsed
    ):
        raise UserError(
            f"--set {text!r} has a {type(parsed).__name__}; allowed are finite numbers, true, false"
            " and texts"
        )
    return key, parsed
