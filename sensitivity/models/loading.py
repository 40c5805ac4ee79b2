"""How does a study's model come into memory?

`load_pipeline`: the `[model]` section of a study as a diffusers pipeline on a device; `painting`
draws with it.

    loaded = load_pipeline(spec, device="cuda")
    loaded.remember(prompts)                        # text that the study does not name; its own is encoded by then

Method. Files are looked at before any is opened (`weight_files`). On the CPU everything is mapped
from its files, and text is encoded when it is first drawn. Elsewhere the text encoders are read
straight to the device, every prompt of the study is encoded (`text_memory`), they leave, and only
then is the denoiser read straight to the device; what decodes comes for each decoding and leaves
when the denoiser is called again (`guests`). So the peak is the larger of the two, not the sum, and
host memory holds no copy of either. With `model.random_seed` nothing is read: modules are drawn at
full size (`random_weights`).

Conventions: bf16, safetensors only, no remote code, no custom pipelines. What it does not do: split
one module over devices, or offload the denoiser.
"""

import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.errors import PipelineError, SensitivityError, SpecError
from sensitivity.models.denoisers import joined
from sensitivity.models.hub import HUB_TIMEOUT_S, hub_answers, quiet
from sensitivity.models.model_index import (
    component_class,
    enable_vae_tiling,
    no_component,
    pipeline_class,
    read_json,
)
from sensitivity.models.random_weights import random_component, random_digest, random_pipeline
from sensitivity.models.residency import Guest, home_of, say_device, source_from
from sensitivity.models.skeleton import build_component
from sensitivity.models.text_memory import TextMemory
from sensitivity.models.weight_files import find_weights
from sensitivity.spec.study_spec import StudySpec

CHECKER = (  # not loaded: it blackens what it flags, and a black picture has no distance
    "safety_checker"
)
WHOLE_FILE_BYTES = 64 * 2**20
SAMPLED_CHUNKS, CHUNK_BYTES = 64, 2**20
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedPipeline:
    """A pipeline on a device, and what identifies its weights.

    Attributes:
        spec: the study that it was loaded for.
        pipe: the diffusers pipeline, in bf16, no progress bar.
        denoiser: the component whose Linears are studied, or all of them as one module
            (`denoisers.joined`).
        device: where it runs, as torch names it.
        weights_hash: sha256 over all weight files (see `hash_weights`), or of the seed and the
            configs of random ones.
        denoisers: {component: module} of all that are denoisers, those of `model.denoisers` first.
        text: remembers what was encoded; None where every call encodes anew.
        guests: modules that are on the device only while they are used, by component.
    """

    spec: StudySpec
    pipe: Any
    denoiser: nn.Module
    device: str
    weights_hash: str
    denoisers: Mapping[str, nn.Module] = field(default_factory=dict)
    text: TextMemory | None = None
    guests: Mapping[str, Guest] = field(default_factory=dict)

    def remember(self, prompts: Sequence[str]) -> None:
        """Encode each prompt that is not known yet, one at a time, at the study's settings.

        Raises what the pipeline's call raises.
        """
        if self.text is not None:
            for prompt in prompts:
                self.text.learn(
                    prompt,
                    lambda prompt=prompt: self.pipe(**text_call(self.spec, self.pipe, prompt)),
                )  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a pipeline's parts come from.

    Attributes:
        pipeline: the name of its class.
        classes: {component: class} of those that have weights.
        make: (component, device) -> the component there, in bf16.
        shell: component -> the same on meta.
        assemble: {component: module} -> the pipeline.
        digest: identifies the weights.
    """

    pipeline: str
    classes: Mapping[str, type]
    make: Callable[[str, str], nn.Module]
    shell: Callable[[str], nn.Module]
    assemble: Callable[[Mapping[str, nn.Module]], Any]
    digest: str


def load_pipeline(
    spec: StudySpec, *, device: str, resident: bool = False, in_turn: bool | None = None
) -> LoadedPipeline:
    """Load the study's pipeline in bf16.

    Args:
        spec: the study.
        device: where it runs.
        resident: keep all of it on the device and encode text in every call, as a plain pipeline
            does.
        in_turn: let its parts take turns on the device; None is everywhere but on the CPU.

    Raises:
        PipelineError: the folder or Hub id cannot be loaded (no such id, no network, a missing or
            damaged file), it has no such component, or memory ran out.
        SpecError: the study decodes in tiles and the pipeline's VAE cannot, or it sets arguments
            that the pipeline's call does not have.
    """
    source = _stored(spec) if spec.model.random_seed is None else _random(spec, device)
    for name in spec.model.denoisers:
        if name not in source.classes:
            raise PipelineError(no_component(spec, source.pipeline, name, list(source.classes)))
    try:
        with quiet():
            if not resident and (
                torch.device(device).type != "cpu" if in_turn is None else in_turn
            ):
                return _load_in_turn(spec, source, device)
            return _load_whole(spec, source, device, remembers=not resident)
    except torch.OutOfMemoryError as error:
        raise PipelineError(
            f"{spec.name} ran out of memory on {device} while it was loaded ({_first_line(error)});"
            " allowed is what fits beside whatever else is there: `sensitivity search --dry-run`"
            " says how much it needs, end what else uses the device, or take a larger one"
        ) from error


def _load_whole(
    spec: StudySpec, source: _Source, device: str, *, remembers: bool
) -> LoadedPipeline:
    """All components on the device, to stay."""
    modules = {name: source.make(name, device) for name in source.classes}
    pipe = _assembled(spec, source, modules)
    denoisers = {name: modules[name] for name in _denoisers(spec, source)}
    rest = {
        name: part
        for name, part in modules.items()
        if name not in denoisers and not hasattr(part, "decode")
    }
    text = (
        TextMemory(rest, denoisers=list(denoisers.values()), device=device) if remembers else None
    )
    return LoadedPipeline(
        spec=spec,
        pipe=pipe,
        denoiser=_studied(spec, denoisers),
        device=device,
        weights_hash=source.digest,
        denoisers=denoisers,
        text=text,
    )


def _load_in_turn(spec: StudySpec, source: _Source, device: str) -> LoadedPipeline:
    """First what encodes text, then, when it has left, the denoisers; see the module's docstring."""
    awaited = {name: source.shell(name) for name in _denoisers(spec, source)}
    for shell in awaited.values():
        say_device(shell, torch.device(device))
    others = {name: cls for name, cls in source.classes.items() if name not in awaited}
    coders = [name for name, cls in others.items() if hasattr(cls, "decode")]
    early = [name for name in others if name not in coders]
    parts = {
        name: source.make(name, "cpu" if name in coders else device) for name in (*early, *coders)
    }
    pipe = _assembled(spec, source, awaited | parts)
    guests = {
        name: Guest(
            part,
            device=device,
            source=source_from(partial(source.make, name, device)),
            here=name in early,
        )
        for name, part in parts.items()
    }
    text = TextMemory(
        {name: parts[name] for name in early}, denoisers=list(awaited.values()), device=device
    )
    encoding = LoadedPipeline(
        spec=spec,
        pipe=pipe,
        denoiser=_studied(spec, awaited),
        device=device,
        weights_hash=source.digest,
        text=text,
    )
    try:
        encoding.remember([*spec.prompts.search, *spec.prompts.held_out])
    except torch.OutOfMemoryError:
        raise
    # it wants more of its denoiser than a configuration, or refuses its settings, as its first
    # picture will say
    except Exception as error:
        log.info(
            "text is encoded in every call, since it could not be beforehand (%s: %s)",
            type(error).__name__,
            _first_line(error),
        )
        text.close()
    _settle(guests, text, coders)
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    denoisers = {name: source.make(name, device).eval().requires_grad_(False) for name in awaited}
    for name, module in denoisers.items():
        setattr(pipe, name, module)
        module.register_forward_pre_hook(lambda *_: _all_leave(guests))
    text.denoisers = tuple(denoisers.values())
    return replace(encoding, denoiser=_studied(spec, denoisers), denoisers=denoisers, guests=guests)


def _settle(guests: dict[str, Guest], text: TextMemory, coders: Sequence[str]) -> None:
    """Who leaves when the study's text is encoded: what was remembered, to be read again if need
    be, and what was not called yet, to host memory.
    """
    for name in [*guests]:
        guest = guests[name]
        if name not in coders and (not text.works or name in text.passed):
            guests.pop(name).close()  # it runs in every call
            continue
        if name not in text.answered:
            guest.source = home_of(guest.module)
        guest.leave()


def _all_leave(guests: Mapping[str, Guest]) -> None:
    for guest in guests.values():
        if guest.here:
            guest.leave()


def text_call(spec: StudySpec, pipe: Any, prompt: str) -> dict[str, Any]:
    """The arguments of a pipeline call for one prompt, at the study's settings."""
    call: dict[str, Any] = {"prompt": [prompt], **spec.settings}
    if isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]]
    accepted = inspect.signature(type(pipe).__call__).parameters
    ours = {"output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return call | {key: value for key, value in ours.items() if key in accepted}


def _assembled(spec: StudySpec, source: _Source, modules: Mapping[str, nn.Module]) -> Any:
    """The pipeline of these modules, ready to be called.

    Raises SpecError for settings that it does not take.
    """
    pipe = source.assemble(modules)
    pipe.set_progress_bar_config(disable=True)
    parameters = inspect.signature(type(pipe).__call__).parameters
    unknown = [name for name in spec.settings if name not in parameters]
    if unknown:
        raise SpecError(
            f"{spec.name}: settings {', '.join(unknown)} are no arguments of {type(pipe).__name__};"
            f" allowed are {', '.join(n for n in parameters if n != 'self')}: correct `[settings]`"
        )
    for part in modules.values():
        part.eval().requires_grad_(False)
    enable_vae_tiling(spec, pipe)
    return pipe


def _studied(spec: StudySpec, modules: Mapping[str, nn.Module]) -> nn.Module:
    return joined({name: modules[name] for name in spec.model.denoisers})


def _denoisers(spec: StudySpec, source: _Source) -> list[str]:
    """The denoisers that the study names, then others of the same class."""
    named, cls = [*spec.model.denoisers], source.classes[spec.model.component]
    return [
        *named,
        *(name for name, other in source.classes.items() if name not in named and other is cls),
    ]


def _stored(spec: StudySpec) -> _Source:
    """A folder, or a Hub id that is downloaded first."""
    folder = spec.model.path or _downloaded(spec)
    local = spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"path": folder, "hub": None, "config": None})
        }
    )
    index = read_json(folder / "model_index.json")
    classes = {
        name: cls
        for name, entry in index.items()
        if name != CHECKER and (cls := _class_with_weights(entry)) is not None
    }
    unchecked = {CHECKER: None} if CHECKER in index else {}
    files = find_weights(
        folder, {name: cls.__name__ for name, cls in classes.items()}, variant=spec.model.variant
    )

    def make(name: str, device: str) -> nn.Module:
        cls: Any = classes[name]
        placed = {} if device == "cpu" else {"device_map": {"": device}}
        try:
            with quiet():
                made, info = cls.from_pretrained(
                    str(folder / name),
                    dtype=torch.bfloat16,
                    use_safetensors=True,
                    variant=files[name].variant,
                    output_loading_info=True,
                    **placed,
                )
        except torch.OutOfMemoryError:
            raise
        # every loader may raise its own kind; all mean that this component did not load
        except Exception as error:
            raise PipelineError(
                _message(f"{folder / name} could not be loaded as a {cls.__name__}", error)
            ) from error
        _check_complete(folder / name, sorted(info["missing_keys"]), name in spec.model.denoisers)
        module: nn.Module = made
        return module

    def assemble(modules: Mapping[str, nn.Module]) -> Any:
        cls = pipeline_class(str(index.get("_class_name", "")), folder)
        try:
            with quiet():
                pipe = cls.from_pretrained(
                    str(folder), **modules, **unchecked
                )  # of DiffusionPipeline itself, it would read optional components again
        except Exception as error:
            raise PipelineError(
                _message(f"{folder} could not be loaded as a {cls.__name__}", error)
            ) from error
        for name, module in modules.items():
            setattr(pipe, name, module)
        return pipe

    return _Source(
        pipeline=str(index.get("_class_name")),
        classes=classes,
        make=make,
        shell=lambda name: build_component(local, name),
        assemble=assemble,
        digest=hash_weights(spec, folder),
    )


def _class_with_weights(entry: object) -> type | None:
    """The class that an entry of model_index.json names, if it is a module's.

    Raises PipelineError for one that is not installed.
    """
    if not (
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)
    ):
        return None
    cls = component_class(*entry)
    return cls if issubclass(cls, nn.Module) else None


def _check_complete(place: Path, missing: list[str], studied: bool) -> None:
    """Weights that files lack are drawn at random by the libraries: said, or refused in what is
    studied.
    """
    if not missing:
        return
    text = f"{place} lacks {len(missing)} weights that its class has, the first is {missing[0]}"
    if studied:
        raise PipelineError(
            f"{text}; allowed is all of them: download it again, or correct config.json"
        )
    log.warning("%s: the library has drawn them at random", text)


def _random(spec: StudySpec, device: str) -> _Source:
    """The config files, and a seed.

    Everything is drawn on `device`, wherever it goes: another device draws other numbers.
    """
    seed, skeleton = spec.model.random_seed or 0, random_pipeline(spec)
    shells = {
        name: part for name, part in skeleton.components.items() if isinstance(part, nn.Module)
    }

    def assemble(modules: Mapping[str, nn.Module]) -> Any:
        for name, module in modules.items():
            setattr(skeleton, name, module)
        return skeleton

    return _Source(
        pipeline=type(skeleton).__name__,
        classes={name: type(part) for name, part in shells.items()},
        make=lambda name, where: random_component(
            spec, component=name, device=device, seed=seed + 1000 * list(shells).index(name)
        ).to(where),
        shell=shells.__getitem__,
        assemble=assemble,
        digest=random_digest(spec, seed),
    )


def _downloaded(spec: StudySpec) -> Path:
    """The folder of a Hub id in the local cache, fetched as far as it is not there.

    Raises PipelineError where it cannot be had.
    """
    from diffusers import DiffusionPipeline

    model, offline = spec.model, not hub_answers()
    try:
        with quiet():
            return Path(
                DiffusionPipeline.download(
                    model.hub,
                    revision=model.revision,
                    variant=model.variant,
                    use_safetensors=True,
                    local_files_only=offline,
                )
            )
    except SensitivityError:
        raise
    except (
        Exception
    ) as error:  # the Hub's client has an error for each way in which a file cannot be had
        asked = f"{model.hub}, revision {model.revision}," if model.revision else str(model.hub)
        silent = (
            f"the Hub does not answer in {HUB_TIMEOUT_S:g} s, and the cache does not hold all of it"
        )
        reason = silent if offline else f"{type(error).__name__}: {_first_line(error)}"
        raise PipelineError(
            f"{asked} could not be loaded from the Hugging Face Hub or its local cache ({reason});"
            " allowed is a public diffusers pipeline that is reachable or already downloaded:"
            " check the id, the revision and the network, log in for gated models (`hf auth"
            " login`), or pass a folder made by `pipeline.save_pretrained`"
        ) from error


def _message(what: str, error: Exception) -> str:
    return (
        f"{what} ({type(error).__name__}: {_first_line(error)}); allowed is what"
        " `pipeline.save_pretrained(folder)` writes with the installed diffusers and transformers:"
        " save or download it again, or upgrade them"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]


def hash_weights(spec: StudySpec, folder: Path) -> str:
    """sha256 of every weight and config file: the whole of files up to 64 MiB, 64 evenly spread MiB
    and the size of larger ones; of a Hub id, its commit.
    """
    digest = hashlib.sha256()
    if spec.model.variant is not None:
        digest.update(f"variant {spec.model.variant}:".encode())
    if spec.model.hub is not None:  # a snapshot's folder is named after its commit
        digest.update(f"{spec.model.hub}@{folder.name}".encode())
        return digest.hexdigest()
    for path in sorted(
        p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and p.is_file()
    ):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE_BYTES:
                digest.update(file.read())
                continue
            for i in range(SAMPLED_CHUNKS):
                file.seek((size - CHUNK_BYTES) * i // (SAMPLED_CHUNKS - 1))
                digest.update(file.read(CHUNK_BYTES))
    return digest.hexdigest()
