"""Which model is studied, with which settings, and what may be skipped:

`StudySpec`, read from `studies/*.toml`.

A study is declared, never computed: the model's folder or Hub id, the arguments of the pipeline
call, the prompts (those that choose and those that are held out), the perceptual net, how Linears
are grouped, what is always skipped and why, and the GPU that is priced. Everything downstream reads
this record and nothing else.

    spec = resolve_spec("tiny-flux")               # a study by name
    spec = resolve_spec("./my-study.toml")         # a study by path
    spec = resolve_spec("./my-flux-folder")        # a diffusers folder or a Hub id: a bare study, that `deriving.derive_study` completes
    spec = resolve_spec("black-forest-labs/FLUX.1-dev")

Convention: paths in a TOML are relative to the TOML. This module imports no torch and opens no
weights.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from sensitivity.errors import UserError
from sensitivity.spec.hand_lists import PublishedList, Reasoned, RuleOfThumb, Section
from sensitivity.spec.prompts import PICTURES, PromptSection

Weights = Literal["pretrained", "random", "trained-tiny"]


class ModelSection(Section):
    """Where the weights are:

    `path` (a diffusers folder) or `hub` (an id) with `revision`; `component` is the pipeline's
    denoiser.

    `components` names all denoisers that are searched together, `component` first, where a pipeline
    has several (Wan 2.2); () is `component` alone. `config` is a folder with the config files
    alone: shapes come from it without a download. `vae_tiling` decodes in tiles. `variant` is that
    of the weight files' names ("fp16"). `random_seed`: no weights are read, random ones of full
    size are drawn from this seed, and `weights` is "random".
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
        named = (
            data.get("components") if isinstance(data, dict) and "component" not in data else None
        )
        return (
            {**data, "component": named[0]} if isinstance(named, list | tuple) and named else data
        )

    @model_validator(mode="after")
    def _components_fit(self) -> Self:
        if len(set(self.components)) < len(self.components):
            raise ValueError(
                f"`components` names one twice: {', '.join(self.components)}; take the repeat out"
            )
        if self.components and self.components[0] != self.component:
            raise ValueError(
                f"`components` begins with {self.components[0]!r} and `component` is"
                f" {self.component!r}; give one of them, or make them agree"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(
                "give exactly one of `path` (a diffusers folder) and `hub` (an id such as org/name)"
            )
        return self

    @model_validator(mode="after")
    def _random_is_said(self) -> Self:
        if self.random_seed is not None and self.weights != "random":
            raise ValueError(
                f'`random_seed` is {self.random_seed} and `weights` is "{self.weights}"; set'
                ' `weights = "random"`, or take the seed out'
            )
        return self


class FidelitySection(Section):
    """The perceptual distance:

    LPIPS net and, for `tiny`, the file of its trunk. For clips also which frames are looked at, and
    what sound may cost.

    `frame_stride`: every so-manieth frame is compared. `audio_weight`: LPIPS that a unit of the
    sound's distance counts as wherever skip-lists are ranked (at 0.5 a sound that has only its
    spectrum in common with bf16's costs 0.67, as a picture does that has nothing in common).
    `max_audio_distance`: skip-lists whose sound is farther than this from bf16's are never chosen;
    None asks nothing. `fidelity.audio` has the scale of both.
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
    """How candidates are made: pictures generated together, depth bands a block class, roles that
    consumers fuse, what is never quantized.

    `chunk`: search prompts that are drawn together before a trial is looked at, which may end
    there; None is the batch size, and no trial ends early. `order`: indices of the search prompts
    in the order in which they are drawn, () as written; each keeps its seed. Both decide which
    pictures share a batch, so they are part of every score. `depth_bands`: parts of equal length
    into which blocks of a class are split; of blocks inside of blocks (UNets), those of each
    outermost block. `fused`: roles, each the last part of a name ("to_q") or its last parts
    ("attn1.to_q"); the first family that has a Linear counts.
    """

    batch_size: Annotated[int, Field(ge=1)] = 8
    chunk: Annotated[int, Field(ge=1)] | None = None
    order: tuple[int, ...] = ()
    depth_bands: Annotated[int, Field(ge=1)] = 3
    fused: tuple[tuple[str, ...], ...] = (
        ("to_q", "to_k", "to_v"),
        ("add_q_proj", "add_k_proj", "add_v_proj"),
    )
    always_skip: tuple[Reasoned, ...] = ()

    @model_validator(mode="after")
    def _chunk_fits(self) -> Self:
        if self.chunk is not None and self.chunk > self.batch_size:
            raise ValueError(
                f"`chunk` is {self.chunk}; allowed is 1 to `batch_size` ({self.batch_size}): lower"
                " it, or raise `batch_size`"
            )
        return self


class PricingSection(Section):
    """What is priced: the GPU, the batch it serves, and how much larger than the model it is
    (`stands_for`, 1 for real models).

    `prompt_tokens` and `negative_prompt_tokens` are the text tokens that the denoiser gets where
    the pipeline does not pad to a fixed length. The defaults are QwenImage's: a prompt of 9 tokens
    and 5 of the template, and " " with the same 5.
    """

    target: str = "b200"
    batch_size: Annotated[int, Field(ge=1)] = 1
    stands_for: Annotated[int, Field(ge=1)] = 1
    prompt_tokens: Annotated[int, Field(ge=1)] = 14
    negative_prompt_tokens: Annotated[int, Field(ge=1)] = 6


class StudySpec(Section):
    """One study: everything that a profile, a search or a verification needs to know before it
    loads anything.
    """

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
        """Whether only the model is known, from a folder or a Hub id:

        `deriving.derive_study` completes it, and gives back any other study as it is.
        """
        return self._bare

    @model_validator(mode="after")
    def _order_is_of_the_prompts(self) -> Self:
        count = len(self.prompts.search)
        if self.search.order and sorted(self.search.order) != list(range(count)):
            raise ValueError(
                f"`search.order` is {list(self.search.order)}; allowed is each of 0 to {count - 1}"
                " once, or no order"
            )
        return self


def check_budget(budget: int) -> None:
    """Raise UserError unless a search of `budget` trials makes sense."""
    if budget < 1:
        raise UserError(f"--budget is {budget}; allowed is 1 or more trials: 50 is a usual one")
