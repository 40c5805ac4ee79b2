"""How is a study's pipeline loaded on a device?

`load_pipeline`: the `[model]` section of a study as a diffusers pipeline. `generating` makes
pictures with it.

    loaded = load_pipeline(spec, device="cuda")
    loaded.remember(["a red ring"])     # encode a text that the study does not have

Method. On the CPU every component is memory-mapped from its files, and a text is encoded when it
is first used. On other devices the components take turns, so that the peak of memory is the largest
of them and not their sum:

1. The text encoders are loaded, every prompt of the study is encoded (`text_memory`), and they are
   unloaded.
2. The denoisers are loaded, and stay.
3. What decodes is loaded for each decoding, and unloaded when a denoiser is called again
   (`residency`).

Host memory holds no copy of encoders and denoisers. `pipeline_source` says where components come
from.

What it does not do: split one module over several devices, or offload the denoiser.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.core.words import first_line
from sensitivity.errors import PipelineError, SpecError
from sensitivity.models.denoisers import joined, parts_of
from sensitivity.models.hub import quiet
from sensitivity.models.kept_texts import KeptTexts, texts_key
from sensitivity.models.model_index import unknown_component
from sensitivity.models.pipeline_source import PipelineSource, pipeline_source
from sensitivity.models.residency import OnDemandModule, host_copy, report_device, source_from
from sensitivity.models.text_memory import TextMemory
from sensitivity.models.vae import enable_vae_tiling
from sensitivity.spec.call_names import check_one_per_prompt
from sensitivity.spec.study_spec import StudySpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedPipeline:
    """A pipeline on a device.

    Attributes:
        spec: the study that it was loaded for.
        pipe: the diffusers pipeline, in bf16, without a progress bar.
        denoiser: the component whose Linears are studied; all of them as one module where there
            are several (`denoisers.joined`).
        device: where it runs, as torch names it.
        weights_hash: identifies its weights (`weights_hash`).
        commit: of the Hub's repository that they are from; None for a folder or random weights.
        denoisers: {component: module} of all denoisers, those of `model.denoisers` first.
        text: remembers encoded text; None where every call encodes text.
        on_demand: {component: module} of those that are on the device only while they are used.
    """

    spec: StudySpec
    pipe: Any
    denoiser: nn.Module
    device: str
    weights_hash: str
    commit: str | None = None
    denoisers: Mapping[str, nn.Module] = field(default_factory=dict)
    text: TextMemory | None = None
    on_demand: dict[str, OnDemandModule] = field(default_factory=dict)

    @property
    def classes(self) -> dict[str, str]:
        """{component: class} of the denoisers that are studied."""
        return {
            name or self.spec.model.component: type(part).__name__
            for name, part in parts_of(self.denoiser).items()
        }

    def remember(self, prompts: Sequence[str]) -> None:
        """Encode each prompt that is not known yet, one at a time, at the study's settings.

        What the pipeline's call raises is raised again.
        """
        if self.text is None:
            return
        for prompt in prompts:
            self.text.learn(prompt, partial(self._call, prompt))

    def keep_resident(self) -> None:
        """Keep all of it on the device from now on and encode text in every call, as a plain
        pipeline does (`resident` of `load_pipeline`).
        """
        if self.text is not None:
            self.text.close()
        while self.on_demand:  # emptied, so that no denoiser's call unloads them again
            self.on_demand.popitem()[1].close()

    def _call(self, prompt: str) -> object:
        return self.pipe(**text_call(self.spec, self.pipe, prompt))


def load_pipeline(
    spec: StudySpec,
    *,
    device: str,
    resident: bool = False,
    in_turn: bool | None = None,
    texts: Path | None = None,
) -> LoadedPipeline:
    """Load the study's pipeline in bf16.

    Args:
        spec: the study.
        device: where it runs.
        resident: keep all of it on the device and encode text in every call, as a plain pipeline
            does.
        in_turn: let its components take turns on the device; None means on all devices but the CPU.
        texts: the folder in which encoded texts are kept for other processes (`kept_texts`); None:
            they are not kept.

    Raises:
        PipelineError: the folder or Hub id cannot be loaded (no such id, no network, a missing or
            damaged file), the pipeline lacks a component of the study, or memory ran out.
        SpecError: the study decodes in tiles and the pipeline's VAE cannot, or it sets arguments
            that the pipeline's call does not have.
    """
    source = pipeline_source(spec, device=device)
    for name in spec.model.denoisers:
        if name not in source.classes:
            raise unknown_component(spec, source.pipeline, name, list(source.classes))
    if in_turn is None:
        in_turn = torch.device(device).type != "cpu"
    try:
        with quiet():
            if in_turn and not resident:
                return _load_in_turn(spec, source, device, texts)
            return _load_whole(spec, source, device, texts, remembers=not resident)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise PipelineError(
            f"{spec.name} ran out of memory on {device} while it was loaded"
            f" ({first_line(error, most=300)}); expected room for the largest of its parts: see how"
            " much a search needs with `dry_run`, end what else uses the device, or take a larger"
            " one"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the host (whose allocator raises a plain RuntimeError), has no room."""
    kinds = MemoryError | torch.OutOfMemoryError
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _load_whole(
    spec: StudySpec, source: PipelineSource, device: str, texts: Path | None, *, remembers: bool
) -> LoadedPipeline:
    """All components on the device for good."""
    modules = {name: source.make(name, device) for name in source.classes}
    pipe = _assembled(spec, source, modules)
    denoisers = {name: modules[name] for name in _denoiser_names(spec, source)}
    text = None
    if remembers:
        encoders = {
            name: part
            for name, part in modules.items()
            if name not in denoisers and not hasattr(part, "decode")
        }
        text = TextMemory(encoders, denoisers=list(denoisers.values()), device=device)
        text.kept = _kept_texts(texts, spec, source, device)
    return LoadedPipeline(
        spec=spec,
        pipe=pipe,
        denoiser=_studied(spec, denoisers),
        device=device,
        weights_hash=source.weights_hash,
        commit=source.commit,
        denoisers=denoisers,
        text=text,
    )


def _load_in_turn(
    spec: StudySpec, source: PipelineSource, device: str, texts: Path | None
) -> LoadedPipeline:
    """First what encodes text, then the denoisers, as the module's docstring says."""
    shells = {name: source.shell(name) for name in _denoiser_names(spec, source)}
    for shell in shells.values():
        report_device(shell, torch.device(device))
    others = [name for name in source.classes if name not in shells]
    decoders = [name for name in others if hasattr(source.classes[name], "decode")]
    encoders = [name for name in others if name not in decoders]
    parts = {name: source.make(name, device) for name in encoders}
    parts |= {name: source.make(name, "cpu") for name in decoders}
    pipe = _assembled(spec, source, shells | parts)
    on_demand = {
        name: OnDemandModule(
            part,
            device=device,
            source=source_from(partial(source.make, name, device)),
            loaded=name in encoders,
        )
        for name, part in parts.items()
    }
    text = TextMemory(
        {name: parts[name] for name in encoders}, denoisers=list(shells.values()), device=device
    )
    text.kept = _kept_texts(texts, spec, source, device)
    loaded = LoadedPipeline(
        spec=spec,
        pipe=pipe,
        denoiser=_studied(spec, shells),
        device=device,
        weights_hash=source.weights_hash,
        commit=source.commit,
        text=text,
    )
    _encode_prompts(loaded, text)
    _unload_encoded(on_demand, text, decoders)
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    denoisers = {name: source.make(name, device).eval().requires_grad_(False) for name in shells}
    for name, module in denoisers.items():
        setattr(pipe, name, module)
        module.register_forward_pre_hook(lambda *_: _unload_all(on_demand))
    text.denoisers = tuple(denoisers.values())
    return replace(
        loaded, denoiser=_studied(spec, denoisers), denoisers=denoisers, on_demand=on_demand
    )


def _kept_texts(
    folder: Path | None, spec: StudySpec, source: PipelineSource, device: str
) -> KeptTexts | None:
    """What keeps encoded texts of a pipeline in a folder; None without one."""
    if folder is None:
        return None
    key = texts_key(spec, source.weights_hash, pipeline=source.pipeline, device=device)
    return KeptTexts(folder, key)


def _encode_prompts(loaded: LoadedPipeline, text: TextMemory) -> None:
    """Encode every prompt of the study.

    Where the pipeline fails, the memory is closed, and text is encoded in every call. It may need
    more of its denoiser than a configuration; if it refuses its settings, its first real call says
    so.
    """
    prompts = loaded.spec.prompts
    try:
        loaded.remember([*prompts.search, *prompts.held_out])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        log.info(
            "text is encoded in every call, because encoding it beforehand failed (%s: %s)",
            type(error).__name__,
            first_line(error, most=300),
        )
        text.close()


def _unload_encoded(
    on_demand: dict[str, OnDemandModule], text: TextMemory, decoders: Sequence[str]
) -> None:
    """Unload what the denoiser's calls do not need.

    Components whose answers are remembered are made again if a new text comes. Those that no call
    has reached yet are kept in host memory. Those that run in every call stay on the device.
    """
    for name, module in [*on_demand.items()]:
        if name not in decoders and (not text.works or name in text.passed):
            on_demand.pop(name).close()
            continue
        if name not in text.answered:
            module.source = host_copy(module.module)
        module.unload()


def _unload_all(on_demand: Mapping[str, OnDemandModule]) -> None:
    for module in on_demand.values():
        if module.loaded:
            module.unload()


def text_call(spec: StudySpec, pipe: Any, prompt: str) -> dict[str, Any]:
    """The arguments of a pipeline call for one prompt, at the study's settings."""
    call: dict[str, Any] = {"prompt": [prompt], **spec.settings}
    if isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]]
    accepted = inspect.signature(type(pipe).__call__).parameters
    ours = {"output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return call | {key: value for key, value in ours.items() if key in accepted}


def check_settings(spec: StudySpec, pipe: Any) -> None:
    """Raise SpecError for settings of a study that its pipeline's call does not take, or that ask
    for several pictures of one prompt.
    """
    check_one_per_prompt(spec.name, spec.settings)
    parameters = inspect.signature(type(pipe).__call__).parameters
    unknown = [name for name in spec.settings if name not in parameters]
    if unknown:
        expected = ", ".join(name for name in parameters if name != "self")
        raise SpecError(
            f"{spec.name}: settings {', '.join(unknown)} are no arguments of {type(pipe).__name__};"
            f" expected some of {expected}: correct `[settings]`"
        )


def _assembled(spec: StudySpec, source: PipelineSource, modules: Mapping[str, nn.Module]) -> Any:
    """The pipeline of these modules, ready to be called."""
    pipe = source.assemble(modules)
    pipe.set_progress_bar_config(disable=True)
    check_settings(spec, pipe)
    for part in modules.values():
        part.eval().requires_grad_(False)
    enable_vae_tiling(spec, pipe)
    return pipe


def _studied(spec: StudySpec, modules: Mapping[str, nn.Module]) -> nn.Module:
    return joined({name: modules[name] for name in spec.model.denoisers})


def _denoiser_names(spec: StudySpec, source: PipelineSource) -> list[str]:
    """The denoisers that the study names, then others of the same class."""
    named, cls = spec.model.denoisers, source.classes[spec.model.component]
    return [*named, *(k for k, other in source.classes.items() if k not in named and other is cls)]
