"""Which model is studied, with which settings, and what may be skipped? `StudySpec` says.

    spec = resolve_spec("tiny-flux")                           # by `spec.loading`
    spec.model.denoisers, spec.search.batch_size               # ("transformer",), 8

A study is declared, never computed. It states the model's folder or Hub id, the arguments of the
pipeline call, the search prompts and the held-out prompts, the LPIPS net, how Linears are grouped,
what is always skipped and why, and the GPU whose latency is predicted. The other rooms read this
record and nothing else.

A study of which only the model is known is *bare*; `shapes.deriving` completes it.

What this module does not do: read files (`spec.loading`), import torch, or open weights.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from sensitivity.core.record_tables import RecordTable
from sensitivity.errors import UserError
from sensitivity.spec._base import Count, Flag, Name, Number, Section, Seed
from sensitivity.spec.hand_lists import PublishedList, Reasoned, RuleOfThumb
from sensitivity.spec.prompts import PromptSection, general_pictures

Weights = Literal["pretrained", "random", "trained-tiny"]
Scalar = int | float | str | bool
Setting = Scalar | None | list[Scalar | list[Scalar]]
"""A value of an argument of the pipeline's call."""
SETTINGS = "a finite number of 64 bits, true, false, null, a text, or a list of these without null"
"""`Setting` in words, for messages."""
MAX_SCALE = 1024
"""The largest `pricing.stands_for`."""
MAX_BUDGET = 100_000
"""The most trials of a search."""
NULL = "null"
"""The key of `[settings]` that lists the arguments whose value is None: TOML has no null."""


class ModelSection(Section):
    """Which model is studied, and where its weights are.

    Attributes:
        path: a diffusers folder; exactly one of `path` and `hub` is set.
        hub: a Hub id, such as org/name.
        revision: the commit of the Hub's repository.
        config: a folder with the config files alone; shapes come from it without a download.
        component: the pipeline's denoiser.
        components: all denoisers that are searched together, `component` first, for a pipeline that
            has several (Wan 2.2); () means `component` alone.
        variant: the variant in the names of the weight files, such as "fp16".
        weights: what the weights are; "random" needs no files.
        random_seed: the seed of random weights; `weights` is "random" then, and none are read.
        vae_tiling: whether the VAE decodes in tiles.
    """

    path: Path | None = None
    config: Path | None = None
    hub: str | None = None
    revision: str | None = None
    component: Annotated[str, Field(min_length=1)] = "transformer"
    components: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    variant: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    weights: Weights = "pretrained"
    random_seed: Seed | None = None
    vae_tiling: Flag = False

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The components that are searched, one or several."""
        return self.components or (self.component,)

    @model_validator(mode="before")
    @classmethod
    def _first_component(cls, data: Any) -> Any:
        """Set `component` to the first of `components` if only those are given."""
        if not isinstance(data, dict) or "component" in data:
            return data
        named = data.get("components")
        if not isinstance(named, list | tuple) or not named:
            return data
        return {**data, "component": named[0]}

    @model_validator(mode="after")
    def _components_fit(self) -> Self:
        if len(set(self.components)) < len(self.components):
            raise ValueError(
                f"`components` has one twice: {', '.join(self.components)}; expected each once:"
                " take the repeat out"
            )
        if self.components and self.components[0] != self.component:
            raise ValueError(
                f"`components` begins with {self.components[0]!r} and `component` is"
                f" {self.component!r}; expected the same: correct one, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            found = "neither `path` nor `hub`" if self.path is None else "both `path` and `hub`"
            raise ValueError(
                f"found {found}; expected exactly one of `path` (a diffusers folder) and `hub` (an"
                " id such as org/name)"
            )
        return self

    @model_validator(mode="after")
    def _seed_means_random(self) -> Self:
        if self.random_seed is not None and self.weights != "random":
            raise ValueError(
                f'`random_seed` is {self.random_seed} and `model.weights` is "{self.weights}";'
                ' expected "random" weights: set `weights = "random"`, or take the seed out'
            )
        return self


class FidelitySection(Section):
    """How what a skip-list generates is compared with what bf16 generates.

    Attributes:
        net: the net of LPIPS.
        weights: the file of its trunk, which `tiny` needs.
        frame_stride: of a clip, every `frame_stride`-th frame is compared.
        audio_weight: the LPIPS that one unit of the sound's distance counts as where skip-lists are
            ranked. At 0.5, a sound that has only its spectrum in common with bf16's adds 0.67, as
            much as the LPIPS of a picture that has nothing in common. The room `fidelity` has the
            scale of the distance, in its module `audio`.
        max_audio_distance: skip-lists whose sound is farther than this from bf16's are never
            chosen; None sets no bound.
    """

    net: Literal["tiny", "alex", "vgg", "squeeze"] = "alex"
    weights: Path | None = None
    frame_stride: Count = 1
    audio_weight: Number = 0.5
    max_audio_distance: Annotated[Number, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _tiny_has_weights(self) -> Self:
        if self.net == "tiny" and self.weights is None:
            raise ValueError(
                'net "tiny" is given without weights; expected `fidelity.weights`, the safetensors'
                " file of its trunk: name it, or choose another net"
            )
        return self


class SearchSection(Section):
    """How a trial is run, and how Linears are grouped.

    Attributes:
        batch_size: pictures that are generated together.
        chunk: search prompts after which a hopeless trial may end; None means that no trial ends
            early.
        order: indices of the search prompts in the order in which pictures are generated; () means
            as written. Each prompt keeps its seed. `batch_size`, `chunk` and `order` decide which
            pictures share a batch, so every score depends on them.
        depth_bands: parts of equal length into which the blocks of a class are split; Linears of
            one role in one part change format together. Where blocks are inside of blocks (UNets),
            the blocks of each outermost block are split.
        fused: families of roles that consumers compute as one Linear, so that they always have the
            same format. A role is the last part of a name ("to_q") or its last parts
            ("attn1.to_q"). A Linear belongs to the first family that has it.
        always_skip: Linears that always stay bf16.
    """

    batch_size: Count = 8
    chunk: Count | None = None
    order: tuple[Annotated[int, Field(strict=True)], ...] = ()
    depth_bands: Count = 3
    fused: tuple[tuple[str, ...], ...] = (
        ("to_q", "to_k", "to_v"),
        ("add_q_proj", "add_k_proj", "add_v_proj"),
    )
    always_skip: tuple[Reasoned, ...] = ()

    @model_validator(mode="after")
    def _chunk_fits(self) -> Self:
        if self.chunk is not None and self.chunk > self.batch_size:
            raise ValueError(
                f"`search.chunk` is {self.chunk}; expected 1 to `search.batch_size`"
                f" ({self.batch_size}): lower it, or raise the batch size"
            )
        return self


class PricingSection(Section):
    """The run whose latency is predicted.

    Attributes:
        target: the GPU.
        batch_size: pictures in one run.
        stands_for: how many times larger in each dimension than the model the priced model is; 1
            for all real models.
        prompt_tokens: text tokens of the prompt that the denoiser gets, for a pipeline that does
            not pad to a fixed length. The default is QwenImage's: 9 of the prompt and 5 of the
            template that the pipeline keeps.
        negative_prompt_tokens: the same for the negative prompt: 1 for " " and 5 of the template.
            Where a study does not state it, a negative prompt that is known is counted.
    """

    target: str = "b200"
    batch_size: Count = 1
    stands_for: Annotated[Count, Field(le=MAX_SCALE)] = 1
    prompt_tokens: Count = 14
    negative_prompt_tokens: Count = 6


class StudySpec(Section):
    """One study: all that a profile, a search or a verification needs to know before it loads a
    model.

    `settings` are arguments of the pipeline's call: numbers, texts, true and false, lists of these,
    and None. TOML has no null, so `[settings]` lists the arguments that are None under the key
    `null`: `null = ["guidance_schedule"]`. `rule_of_thumb` and `published` are skip-lists that a
    search is compared with.
    """

    name: Name
    title: str = ""
    model: ModelSection
    settings: dict[str, Setting] = Field(default_factory=dict)
    prompts: PromptSection = Field(default_factory=general_pictures)
    fidelity: FidelitySection = FidelitySection()
    search: SearchSection = SearchSection()
    pricing: PricingSection = PricingSection()
    rule_of_thumb: RuleOfThumb = RuleOfThumb()
    published: tuple[PublishedList, ...] = ()
    _bare: bool = PrivateAttr(default=False)

    def __repr__(self) -> str:
        return f"StudySpec({self.name}: {self._model_words}; {self._prompt_words})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        larger = self.pricing.stands_for
        rows = [
            ("model", self._model_words),
            ("settings", settings or "the pipeline's"),
            ("prompts", self._prompt_words),
            ("pictures are compared by", f"LPIPS, net {self.fidelity.net}"),
            (
                "seconds are those of",
                f"{self.pricing.target}, batch {self.pricing.batch_size}"
                + (f", at {larger} x the model's dimensions" if larger > 1 else ""),
            ),
            ("compared with", ", ".join(["the rule of thumb", *(x.name for x in self.published)])),
        ]
        return RecordTable(
            title=": ".join(text for text in (self.name, self.title) if text),
            columns=("", ""),
            rows=tuple(rows),
        ).to_html()

    @property
    def _model_words(self) -> str:
        model = self.model
        where = str(model.hub or (model.path and model.path.name))
        return f"{', '.join(model.denoisers)} of {where} ({model.weights} weights)"

    @property
    def _prompt_words(self) -> str:
        prompts = self.prompts
        return f"{len(prompts.search)} prompts choose, {len(prompts.held_out)} are held out"

    @property
    def bare(self) -> bool:
        """Whether only the model is known, from a folder or a Hub id.

        `shapes.deriving.derive_study` completes such a study.
        """
        return self._bare

    @model_validator(mode="before")
    @classmethod
    def _with_nulls(cls, data: Any) -> Any:
        """Set the arguments that `settings` lists under `null` to None."""
        settings = data.get("settings") if isinstance(data, dict) else None
        if not isinstance(settings, dict) or NULL not in settings:
            return data
        names, others = settings[NULL], {k: x for k, x in settings.items() if k != NULL}
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"`settings.{NULL}` is a {type(names).__name__}; expected a list of the arguments"
                ' that are None, such as ["guidance_schedule"]: correct it'
            )
        if twice := [name for name in names if name in others]:
            raise ValueError(
                f"`settings` sets {twice[0]!r} and lists it under `{NULL}`; expected one of them:"
                " take the other out"
            )
        return {**data, "settings": others | dict.fromkeys(names)}

    @field_validator("settings", mode="before")
    @classmethod
    def _settings_are_arguments(cls, settings: Any) -> Any:
        if isinstance(settings, dict):
            for name, value in settings.items():
                if not is_setting(value):
                    raise ValueError(f"`settings.{name}` is {kind_of(value)}; expected {SETTINGS}")
        return settings

    @model_validator(mode="after")
    def _order_is_of_the_prompts(self) -> Self:
        count = len(self.prompts.search)
        if self.search.order and sorted(self.search.order) != list(range(count)):
            raise ValueError(
                f"`search.order` is {list(self.search.order)}; expected each of 0 to {count - 1}"
                " once: correct it, or leave it out"
            )
        return self


def is_setting(value: object, depth: int = 0) -> bool:
    """Whether a study can hold a value as an argument of the pipeline's call (`Setting`)."""
    if isinstance(value, list):
        return depth < 2 and all(is_setting(item, depth + 1) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 2**63
    if isinstance(value, str):  # no lone surrogates, which no file can hold
        return value.isascii() or value.encode(errors="replace").decode() == value
    return value is None and depth == 0


def kind_of(value: object) -> str:
    """What a value is that is no setting, in words."""
    if isinstance(value, float):
        return str(value)
    is_large = isinstance(value, int) and not is_setting(value)
    return "an integer over 64 bits" if is_large else f"a {type(value).__name__}"


def check_budget(budget: int) -> None:
    """Raise UserError unless a search of `budget` trials makes sense."""
    if isinstance(budget, bool) or not 1 <= budget <= MAX_BUDGET:
        if budget == 0 and not isinstance(budget, bool):
            raise UserError(
                "`budget` is 0, which searches nothing: only the baselines would be scored;"
                " expected 1 or more trials: 50 is usual"
            )
        expected = f"at most {MAX_BUDGET}" if budget > MAX_BUDGET else "1 or more"
        raise UserError(f"`budget` is {budget}; expected {expected} trials: 50 is usual")
