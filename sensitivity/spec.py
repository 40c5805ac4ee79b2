"""Which model is studied, with which settings, and what may be skipped: `StudySpec`, read from `studies/*.toml`.

A study is declared, never computed: the model's folder or Hub id, the arguments of the pipeline call, the prompts (those that choose and those that are
held out), the perceptual net, how Linears are grouped, what is always skipped and why, and the GPU that is priced. Everything downstream reads
this record and nothing else.

    spec = resolve_spec("tiny-flux")               # a study by name
    spec = resolve_spec("./my-study.toml")         # a study by path
    spec = resolve_spec("./my-flux-folder")        # a diffusers folder: a study is derived, with defaults that `--json` shows
    spec = resolve_spec("black-forest-labs/FLUX.1-dev")

Convention: paths in a TOML are relative to the TOML. This module imports no torch and opens no weights.
"""

import difflib
import json
import os.path
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from sensitivity.errors import FormatError, PipelineError, SpecError, UnknownModelError, UserError
from sensitivity.hand_lists import PublishedList, Reasoned, RuleOfThumb, Section


class FormatName(StrEnum):
    """The number formats that a Linear can run in.

    `bf16` is not quantized. `mxfp8`: e4m3 codes, one e8m0 scale for 32 values along K. `nvfp4`: e2m1 codes, one e4m3 scale for 16 values
    along K and one fp32 scale a tensor. `fp8`: e4m3 codes, one fp32 scale a row. Weights and activations are both quantized, activations at
    run time.
    """

    BF16 = "bf16"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    FP8 = "fp8"


QUANTIZED_FORMATS = tuple(name for name in FormatName if name is not FormatName.BF16)
MOST = 2**16
"""The largest number that an option of a run may count."""
Weights = Literal["pretrained", "random", "trained-tiny"]


class ModelSection(Section):
    """Where the weights are: `path` (a diffusers folder) or `hub` (an id) with `revision`; `component` is the pipeline's denoiser.

    `config` is a folder with the config files alone: shapes come from it without a download. `vae_tiling` decodes in tiles.
    """

    path: Path | None = None
    config: Path | None = None
    hub: str | None = None
    revision: str | None = None
    component: str = "transformer"
    weights: Weights = "pretrained"
    vae_tiling: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` (a diffusers folder) and `hub` (an id such as org/name)")
        return self


class PromptSection(Section):
    """The prompts. Prompt i of a list is drawn from a generator of its own, seeded `seed` + i (held-out ones: `held_out_seed` + i)."""

    search: Annotated[tuple[str, ...], Field(min_length=1)]
    held_out: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int = 0
    held_out_seed: int = 1000

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        both = sorted(set(self.search) & set(self.held_out))
        if both:
            raise ValueError(
                f"{len(both)} prompts are in `search` and in `held_out`, the first is {both[0]!r}; held-out prompts must be others"
            )
        return self


class FidelitySection(Section):
    """The perceptual distance: LPIPS net and, for `tiny`, the file of its trunk."""

    net: Literal["tiny", "alex", "vgg", "squeeze"] = "alex"
    weights: Path | None = None

    @model_validator(mode="after")
    def _tiny_has_weights(self) -> Self:
        if self.net == "tiny" and self.weights is None:
            raise ValueError('net "tiny" needs `weights`, the safetensors file of its trunk')
        return self


class SearchSection(Section):
    """How candidates are made: pictures generated together, depth bands a block class, roles that consumers fuse, what is never quantized.

    `chunk`: search prompts that are drawn together before a trial is looked at, which may end there; None is the batch size, and no trial ends early. `order`: indices
    of the search prompts in the order in which they are drawn, () as written; each keeps its seed. Both decide which pictures share a batch, so they are part of
    every score.
    """

    batch_size: Annotated[int, Field(ge=1)] = 8
    chunk: Annotated[int, Field(ge=1)] | None = None
    order: tuple[int, ...] = ()
    depth_bands: Annotated[int, Field(ge=1)] = 3
    fused: tuple[tuple[str, ...], ...] = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))
    always_skip: tuple[Reasoned, ...] = ()

    @model_validator(mode="after")
    def _chunk_fits(self) -> Self:
        if self.chunk is not None and self.chunk > self.batch_size:
            raise ValueError(f"`chunk` is {self.chunk}; allowed is 1 to `batch_size` ({self.batch_size}): lower it, or raise `batch_size`")
        return self


class PricingSection(Section):
    """What is priced: the GPU, the batch it serves, and how much larger than the model it is (`stands_for`, 1 for real models).

    `prompt_tokens` and `negative_prompt_tokens` are the text tokens that the denoiser gets where the pipeline does not pad to a fixed length. The
    defaults are QwenImage's: a prompt of 9 tokens and 5 of the template, and " " with the same 5.
    """

    target: str = "b200"
    batch_size: Annotated[int, Field(ge=1)] = 1
    stands_for: Annotated[int, Field(ge=1)] = 1
    prompt_tokens: Annotated[int, Field(ge=1)] = 14
    negative_prompt_tokens: Annotated[int, Field(ge=1)] = 6


class StudySpec(Section):
    """One study: everything that a profile, a search or a verification needs to know before it loads anything."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    model: ModelSection
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    prompts: PromptSection = Field(default_factory=lambda: GENERAL_PROMPTS)
    fidelity: FidelitySection = FidelitySection()
    search: SearchSection = SearchSection()
    pricing: PricingSection = PricingSection()
    rule_of_thumb: RuleOfThumb = RuleOfThumb()
    published: tuple[PublishedList, ...] = ()

    @model_validator(mode="after")
    def _order_is_of_the_prompts(self) -> Self:
        count = len(self.prompts.search)
        if self.search.order and sorted(self.search.order) != list(range(count)):
            raise ValueError(f"`search.order` is {list(self.search.order)}; allowed is each of 0 to {count - 1} once, or no order")
        return self


def studies_folder() -> Path:
    """The folder of the studies that come with the package: beside the modules when installed, beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def list_studies() -> dict[str, Path]:
    """{name: TOML} of the studies that come with the package, sorted."""
    folder = studies_folder()
    nested = [path for path in folder.glob("**/*.toml") if not any((parent / "model_index.json").is_file() for parent in path.parents)]
    return {path.stem: path for path in sorted(nested)}


def load_spec(path: Path) -> StudySpec:
    """Read a study TOML; its relative paths become absolute.

    Raises:
        SpecError: the file cannot be read, is no TOML, or is no study; the message names the keys.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"{path}: {error.strerror}; a study is a readable TOML file; see `sensitivity models` for those that ship"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is no TOML: {error}; correct it, studies/tiny-flux.toml is an example") from None
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        value = data.get(section, {}).get(key) if isinstance(data.get(section), dict) else None
        if isinstance(value, str):
            data[section][key] = path.parent / value
    return parse_spec(data, where=str(path))


def parse_spec(data: dict[str, Any], *, where: str) -> StudySpec:
    """A study from parsed TOML. Raises SpecError that names each wrong key."""
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'study'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise SpecError(
            f"{where} is no study: {'; '.join(problems[:5])}; correct these keys, studies/tiny-flux.toml is an example"
        ) from None


def resolve_spec(model: str) -> StudySpec:
    """The study that `--model` means: a study's name, a TOML's path, a diffusers folder or a Hub id, tried in this order.

    Raises:
        UnknownModelError: none of them; the message gives the closest study names.
        PipelineError: a folder without `model_index.json`.
        SpecError: the TOML is malformed.
    """
    studies = list_studies()
    if model in studies:
        return load_spec(studies[model])
    path = Path(model)
    if path.suffix == ".toml":
        return load_spec(path)
    if model and os.path.isdir(model):  # unlike Path.is_dir, False for a name that is too long
        if not (path / "model_index.json").is_file():
            raise PipelineError(
                f"{model} is a folder without model_index.json; a diffusers pipeline folder has one (`pipeline.save_pretrained(folder)` "
                "writes it); name the folder that holds it"
            )
        return derived_spec(path.resolve().name, ModelSection(path=path.resolve()))
    if model.count("/") == 1 and all(part and part.strip(".") for part in model.split("/")) and not os.path.exists(model):
        return derived_spec(model.split("/")[1], ModelSection(hub=model))
    closest = difflib.get_close_matches(model, studies, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(closest)}?" if closest else "run `sensitivity models` for the list"
    raise UnknownModelError(
        f"unknown model {model!r}; allowed are a study name ({', '.join(studies)}), a study TOML, a diffusers pipeline folder, or a Hub id "
        f"org/name: {hint}"
    )


def derived_spec(name: str, model: ModelSection) -> StudySpec:
    """A study for a model that has none: the pipeline's own defaults, general prompts, pretrained AlexNet LPIPS."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-") or "model"
    return StudySpec(name=safe, title="derived from the model, with default settings", model=model)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a command line says about the run that is profiled, None where it says nothing. `settings` are texts KEY=VALUE, arguments of the call."""

    batch_size: int | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    prompt_tokens: int | None = None
    guidance: float | None = None
    steps: int | None = None
    settings: tuple[str, ...] = ()


def override_settings(spec: StudySpec, options: RunOptions, call: Mapping[str, Any], pipeline: str) -> StudySpec:
    """The study with a command line's options in its settings.

    `--guidance` is `true_cfg_scale` where that guides by default, `guidance_scale` elsewhere (and the audio's, where there is one). True CFG needs a
    negative prompt: " " where the study has none.

    Args:
        spec: the study.
        options: what was said.
        call: {argument of the pipeline's call: its default}.
        pipeline: the pipeline's class, for messages.

    Raises:
        UserError: a value is out of range, or the pipeline's call has no such argument.
    """
    counts = {"batch_size": options.batch_size, "prompt_tokens": options.prompt_tokens}
    sizes = {"height": options.height, "width": options.width, "num_frames": options.frames, "num_inference_steps": options.steps}
    for name, count in (counts | sizes).items():
        if count is not None and not 1 <= count <= MOST:
            raise UserError(f"{_FLAGS[name]} is {count}; allowed is {f'{MOST} or less' if count > MOST else '1 or more'}: correct it")
    settings: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    if options.guidance is not None:
        if not 0 <= options.guidance < float("inf"):
            raise UserError(f"--guidance is {options.guidance}; allowed is 0 or more, 1 or less means none")
        settings |= _guidance(options.guidance, spec, call)
    settings |= dict(_key_and_value(text) for text in options.settings)
    for name in settings:
        if name not in call:
            flag = _FLAGS.get(name, f"--set {name}")
            raise UserError(f"{flag} sets {name}, which the call of {pipeline} does not have; allowed are {', '.join(call)}: leave it out")
    priced = spec.pricing.model_copy(update={name: count for name, count in counts.items() if count is not None})
    return spec.model_copy(update={"settings": spec.settings | settings, "pricing": priced})


_FLAGS = {
    "batch_size": "--batch-size", "prompt_tokens": "--prompt-tokens", "height": "--height", "width": "--width", "num_frames": "--frames",
    "num_inference_steps": "--steps", "guidance_scale": "--guidance", "true_cfg_scale": "--guidance",
}  # fmt: skip


def _guidance(scale: float, spec: StudySpec, call: Mapping[str, Any]) -> dict[str, Any]:
    default = call.get("true_cfg_scale")
    if isinstance(default, int | float) and default > 1:
        more = {"negative_prompt": " "} if "negative_prompt" in call and "negative_prompt" not in spec.settings else {}
        return {"true_cfg_scale": scale} | more
    audio = {"audio_guidance_scale": scale} if "audio_guidance_scale" in call else {}
    return {"guidance_scale": scale} | audio


def _key_and_value(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON has it, else a text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise UserError(
            f"--set {text!r}; allowed is KEY=VALUE with an argument of the pipeline's call, such as --set max_sequence_length=256"
        )
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    if not isinstance(parsed, int | float | str | bool) or parsed in (float("inf"), float("-inf")) or parsed != parsed:
        raise UserError(f"--set {text!r} has a {type(parsed).__name__}; allowed are finite numbers, true, false and texts")
    return key, parsed


def check_budget(budget: int) -> None:
    """Raise UserError unless a search of `budget` trials makes sense."""
    if budget < 1:
        raise UserError(f"--budget is {budget}; allowed is 1 or more trials: 50 is a usual one")


def parse_formats(names: list[str]) -> tuple[FormatName, ...]:
    """The formats to search, without repeats, in the order given.

    Raises:
        FormatError: a name is no quantized format, or none is given.
    """
    allowed = ", ".join(QUANTIZED_FORMATS)
    for name in names:
        if name not in QUANTIZED_FORMATS:
            what = "is what skipped Linears keep" if name == FormatName.BF16 else "is unknown"
            closest = difflib.get_close_matches(name, QUANTIZED_FORMATS, n=1)
            hint = f"did you mean {closest[0]}?" if closest else "choose one or more of them"
            raise FormatError(f"--format {name!r} {what}; allowed are {allowed}: {hint}")
    if not names:
        raise FormatError(f"no format given; allowed are {allowed}: choose one or more of them")
    return tuple(dict.fromkeys(FormatName(name) for name in names))


GENERAL_PROMPTS: PromptSection = PromptSection(
    search=(
        "a red bicycle leaning against a yellow wall",
        "a bowl of fresh fruit on a wooden table, morning light",
        "portrait of an old fisherman with a grey beard",
        "a small town street in the rain at night, neon signs",
        "three cats sitting on a blue sofa",
        "a mountain lake with a wooden pier, mist",
        'a shop window with the word "OPEN" in white letters',
        "a robot watering plants in a greenhouse",
    ),
    held_out=(
        "a lighthouse on a cliff in a storm",
        "a child's drawing of a house, crayons on paper",
        "two people playing chess in a park",
        "a plate of sushi seen from above",
        "a steam train crossing a stone bridge",
        "a close-up of a dragonfly on a leaf",
        'a road sign that says "STOP", snow around it',
        "an astronaut riding a horse in a desert",
        "a cup of coffee beside an open book",
        "a crowded market with colourful umbrellas",
        "a violin on a velvet chair",
        "a fox in a birch forest in autumn",
        "the inside of a cathedral, sunbeams",
        "a sailing boat at sunset",
        "a green vintage car in front of a diner",
        "a snowman with a black hat",
    ),
)
