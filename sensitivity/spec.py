"""Which model is studied, with which settings, and what may be skipped: `StudySpec`, read from `studies/*.toml`.

A study is declared, never computed: the model's folder or Hub id, the arguments of the pipeline call, the prompts (those that choose and those that are
held out), the perceptual net, how Linears are grouped, what is always skipped and why, and the GPU that is priced. Everything downstream reads
this record and nothing else.

    spec = resolve_spec("tiny-flux")               # a study by name
    spec = resolve_spec("./my-study.toml")         # a study by path
    spec = resolve_spec("./my-flux-folder")        # a diffusers folder or a Hub id: a bare study, that `deriving.derive_study` completes
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

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from sensitivity.errors import FormatError, PipelineError, SpecError, UnknownModelError, UserError
from sensitivity.hand_lists import PublishedList, Reasoned, RuleOfThumb, Section
from sensitivity.prompts import PICTURES, PromptSection, read_prompts


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

    `components` names all denoisers that are searched together, `component` first, where a pipeline has several (Wan 2.2); () is `component` alone.
    `config` is a folder with the config files alone: shapes come from it without a download. `vae_tiling` decodes in tiles.
    `variant` is that of the weight files' names ("fp16"). `random_seed`: no weights are read, random ones of full size are drawn from this seed, and `weights` is
    "random".
    """

    path: Path | None = None
    config: Path | None = None
    hub: str | None = None
    revision: str | None = None
    component: Annotated[str, Field(min_length=1)] = "transformer"
    components: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    variant: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    weights: Weights = "pretrained"
    random_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    vae_tiling: bool = False

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The components that are searched."""
        return self.components or (self.component,)

    @model_validator(mode="before")
    @classmethod
    def _first_component(cls, data: Any) -> Any:
        """`component` is the first of `components` where only those are given."""
        named = data.get("components") if isinstance(data, dict) and "component" not in data else None
        return {**data, "component": named[0]} if isinstance(named, list | tuple) and named else data

    @model_validator(mode="after")
    def _components_fit(self) -> Self:
        if len(set(self.components)) < len(self.components):
            raise ValueError(f"`components` names one twice: {', '.join(self.components)}; take the repeat out")
        if self.components and self.components[0] != self.component:
            raise ValueError(
                f"`components` begins with {self.components[0]!r} and `component` is {self.component!r}; give one of them, or make them agree"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` (a diffusers folder) and `hub` (an id such as org/name)")
        return self

    @model_validator(mode="after")
    def _random_is_said(self) -> Self:
        if self.random_seed is not None and self.weights != "random":
            raise ValueError(
                f'`random_seed` is {self.random_seed} and `weights` is "{self.weights}"; set `weights = "random"`, or take the seed out'
            )
        return self


class FidelitySection(Section):
    """The perceptual distance: LPIPS net and, for `tiny`, the file of its trunk. For clips also which frames are looked at, and what sound may cost.

    `frame_stride`: every so-manieth frame is compared. `audio_weight`: LPIPS that a unit of the sound's distance counts as wherever skip-lists are ranked (at 0.5
    a sound that has only its spectrum in common with bf16's costs 0.67, as a picture does that has nothing in common). `max_audio_distance`: skip-lists whose sound
    is farther than this from bf16's are never chosen; None asks nothing. `fidelity.audio` has the scale of both.
    """

    net: Literal["tiny", "alex", "vgg", "squeeze"] = "alex"
    weights: Path | None = None
    frame_stride: Annotated[int, Field(ge=1)] = 1
    audio_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    max_audio_distance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _tiny_has_weights(self) -> Self:
        if self.net == "tiny" and self.weights is None:
            raise ValueError('net "tiny" needs `weights`, the safetensors file of its trunk')
        return self


class SearchSection(Section):
    """How candidates are made: pictures generated together, depth bands a block class, roles that consumers fuse, what is never quantized.

    `chunk`: search prompts that are drawn together before a trial is looked at, which may end there; None is the batch size, and no trial ends early. `order`: indices
    of the search prompts in the order in which they are drawn, () as written; each keeps its seed. Both decide which pictures share a batch, so they are part of
    every score. `depth_bands`: parts of equal length into which blocks of a class are split; of blocks inside of blocks (UNets), those of each outermost block.
    `fused`: roles, each the last part of a name ("to_q") or its last parts ("attn1.to_q"); the first family that has a Linear counts.
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
    prompts: PromptSection = Field(default_factory=lambda: PICTURES)
    fidelity: FidelitySection = FidelitySection()
    search: SearchSection = SearchSection()
    pricing: PricingSection = PricingSection()
    rule_of_thumb: RuleOfThumb = RuleOfThumb()
    published: tuple[PublishedList, ...] = ()
    _bare: bool = PrivateAttr(default=False)

    @property
    def bare(self) -> bool:
        """Whether only the model is known, from a folder or a Hub id: `deriving.derive_study` completes it, and gives back any other study as it is."""
        return self._bare

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
    prompts = data.get("prompts")
    if isinstance(prompts, dict) and isinstance(prompts.get("file"), str):
        if prompts.keys() & {"search", "held_out"}:
            raise SpecError(f"{path} is no study: prompts: `file` and the prompts themselves are both given; keep one of them")
        data["prompts"] = read_prompts(path.parent / prompts["file"]).model_dump() | {k: v for k, v in prompts.items() if k != "file"}
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
        return bare_spec(path.resolve().name, ModelSection(path=path.resolve()))
    if model.count("/") == 1 and all(part and part.strip(".") for part in model.split("/")) and not os.path.exists(model):
        return bare_spec(model.split("/")[1], ModelSection(hub=model))
    closest = difflib.get_close_matches(model, studies, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(closest)}?" if closest else "run `sensitivity models` for the list"
    raise UnknownModelError(
        f"unknown model {model!r}; allowed are a study name ({', '.join(studies)}), a study TOML, a diffusers pipeline folder, or a Hub id "
        f"org/name: {hint}"
    )


def bare_spec(name: str, model: ModelSection) -> StudySpec:
    """A study of which only the model is known: the pipeline's own defaults, general prompts, pretrained AlexNet LPIPS."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-") or "model"
    spec = StudySpec(name=safe, model=model)
    spec._bare = True
    return spec


def with_prompts(spec: StudySpec, prompts: PromptSection) -> StudySpec:
    """The study with other prompts, drawn in the order in which they are written: another study, as far as results are concerned."""
    return spec.model_copy(update={"prompts": prompts, "search": spec.search.model_copy(update={"order": ()})})


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
