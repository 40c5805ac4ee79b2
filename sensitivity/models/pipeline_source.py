"""Where do a pipeline's components come from: files, or a seed?

`pipeline_source` answers with a `PipelineSource`, which makes one component at a time.

    source = pipeline_source(spec, device="cuda")
    vae = source.make("vae", "cuda")            # with weights, in bf16
    shell = source.shell("transformer")         # on meta
    pipe = source.assemble({"vae": vae, "transformer": shell, ...})

Files are checked before any of them is opened (`weight_files`). A Hub id is downloaded first, if
the Hub answers and the cache lacks files. With `model.random_seed` nothing is read: components are
made at full size from the seed (`random_weights`).

Conventions: bf16, safetensors only, no remote code, no custom pipelines, no safety checker.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.core.words import first_line, printable
from sensitivity.errors import PipelineError, SensitivityError
from sensitivity.models.config_files import check_component_files
from sensitivity.models.hub import HUB_TIMEOUT_S, hub_answers, quiet
from sensitivity.models.missing_packages import lacks_package, missing_package
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.only_data import only_data
from sensitivity.models.pipeline_parts import load_data_part, make_pipeline
from sensitivity.models.random_weights import random_component, random_pipeline
from sensitivity.models.reference_weights import check_reference
from sensitivity.models.safe_versions import check_versions
from sensitivity.models.skeleton import build_component
from sensitivity.models.weight_files import ComponentFiles, find_weights
from sensitivity.models.weights_hash import hash_random_weights, hash_weights
from sensitivity.spec.study_spec import StudySpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PipelineSource:
    """Makes the components of one pipeline, and the pipeline of them.

    Attributes:
        pipeline: the name of its class.
        classes: {component: class} of those that have weights.
        make: (component, device) -> the component there, in bf16.
        shell: component -> the same on meta.
        assemble: {component: module} -> the pipeline.
        weights_hash: identifies the weights (`weights_hash`).
        commit: of the Hub's repository that the files are from; None for a folder.
    """

    pipeline: str
    classes: Mapping[str, type]
    make: Callable[[str, str], nn.Module]
    shell: Callable[[str], nn.Module]
    assemble: Callable[[Mapping[str, nn.Module]], Any]
    weights_hash: str
    commit: str | None = None


def pipeline_source(spec: StudySpec, *, device: str) -> PipelineSource:
    """The source of a study's pipeline.

    Args:
        spec: the study.
        device: where random weights are initialised. Another device has other random numbers.

    Raises:
        PipelineError: the folder or Hub id cannot be had, is no diffusers pipeline, or lacks files.
    """
    if spec.model.random_seed is None:
        return _stored(spec)
    return _random(spec, spec.model.random_seed, device)


def _stored(spec: StudySpec) -> PipelineSource:
    """A folder, or a Hub id that is downloaded first."""
    check_versions()
    if spec.model.path is None:
        _check_configs(spec)
    folder = spec.model.path or _downloaded(spec)
    here = spec.model.model_copy(update={"path": folder, "hub": None, "config": None})
    local = spec.model_copy(update={"model": here})
    index = ModelIndex.read(folder)
    classes = index.module_classes()
    files = find_weights(
        folder, {name: cls.__name__ for name, cls in classes.items()}, variant=spec.model.variant
    )
    check_reference(spec, index, _denoiser_names(spec, index.modules), files)
    for name in classes:
        check_component_files(folder / name)

    def make(name: str, device: str) -> nn.Module:
        required = name in spec.model.denoisers
        return _load_component(classes[name], folder / name, files[name], device, required=required)

    def assemble(modules: Mapping[str, nn.Module]) -> Any:
        data = [name for name in index.components if name not in classes]
        parts = {name: load_data_part(index, name) for name in data}
        pipe = make_pipeline(index, parts | dict(modules))
        for name, module in modules.items():
            setattr(pipe, name, module)
        return pipe

    return PipelineSource(
        pipeline=index.pipeline,
        classes=classes,
        make=make,
        shell=lambda name: build_component(local, name),
        assemble=assemble,
        weights_hash=hash_weights(spec, folder),
        commit=None if spec.model.hub is None else index.commit,
    )


def _check_configs(spec: StudySpec) -> None:
    """Check what a Hub id's configs say of its weights, before any of them is downloaded."""
    try:
        index = ModelIndex.of(spec)
    except PipelineError:
        return  # the download says what is wrong
    check_reference(spec, index, _denoiser_names(spec, index.modules))


def _denoiser_names(spec: StudySpec, classes: Mapping[str, str]) -> list[str]:
    """The denoisers of the study, and other components of the same class."""
    kinds = {classes.get(name) for name in spec.model.denoisers}
    return [name for name, kind in classes.items() if kind in kinds]


def _load_component(
    cls: Any, folder: Path, files: ComponentFiles, device: str, *, required: bool
) -> nn.Module:
    """A component with the weights of its files; `required`: all of its weights must be there."""
    placed = {} if device == "cpu" else {"device_map": {"": device}}
    try:
        with quiet(), only_data():
            module, info = cls.from_pretrained(
                str(folder),
                dtype=torch.bfloat16,
                use_safetensors=True,
                local_files_only=True,
                variant=files.variant,
                output_loading_info=True,
                **placed,
            )
    except (torch.OutOfMemoryError, SensitivityError):
        raise
    except Exception as error:  # every class raises its own kinds of errors
        if missing_package(error) is not None:
            raise lacks_package(cls.__name__, error) from error
        raise _load_error(folder, cls, error) from error
    missing = sorted(info["missing_keys"])
    if missing:
        lacks = f"{folder} lacks {len(missing)} weights of its class, the first is {missing[0]}"
        if required:
            raise PipelineError(
                f"{lacks}; expected all of them: download it again, or correct config.json"
            )
        log.warning("%s: they were initialised at random", lacks)
    if required and (unknown := sorted(info["unexpected_keys"])):
        log.warning(
            "%s holds %d tensors that its class does not have, the first is %s: they are ignored",
            folder,
            len(unknown),
            printable(unknown[0])[:200],
        )
    loaded: nn.Module = module
    return loaded


def _random(spec: StudySpec, seed: int, device: str) -> PipelineSource:
    """The config files, and a seed.

    All weights are initialised on `device` and moved from there, so that they do not depend on
    where a component is put.
    """
    skeleton = random_pipeline(spec)
    shells = {
        name: part for name, part in skeleton.components.items() if isinstance(part, nn.Module)
    }
    seeds = {name: seed + 1000 * i for i, name in enumerate(shells)}

    def make(name: str, where: str) -> nn.Module:
        return random_component(spec, component=name, device=device, seed=seeds[name]).to(where)

    def assemble(modules: Mapping[str, nn.Module]) -> Any:
        for name, module in modules.items():
            setattr(skeleton, name, module)
        return skeleton

    return PipelineSource(
        pipeline=type(skeleton).__name__,
        classes={name: type(part) for name, part in shells.items()},
        make=make,
        shell=shells.__getitem__,
        assemble=assemble,
        weights_hash=hash_random_weights(spec, seed),
    )


def _downloaded(spec: StudySpec) -> Path:
    """A Hub id's folder in the local cache. What it lacks is downloaded."""
    from diffusers import DiffusionPipeline

    model, offline = spec.model, not hub_answers()
    try:
        with quiet(), only_data():
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
    except Exception as error:  # the Hub's client raises many kinds of errors
        asked = f"{model.hub}, revision {model.revision}," if model.revision else str(model.hub)
        silent = (
            f"the Hub does not answer in {HUB_TIMEOUT_S:g} s, and the cache does not hold all of it"
        )
        reason = silent if offline else f"{type(error).__name__}: {first_line(error, most=300)}"
        raise PipelineError(
            f"{asked} could not be loaded from the Hugging Face Hub or its local cache ({reason});"
            " expected a public diffusers pipeline that is reachable or already downloaded: check"
            " the id, the revision and the network, log in for gated models (`hf auth login`), or"
            " name a folder made by `pipeline.save_pretrained`"
        ) from error


def _load_error(folder: Path, cls: type, error: Exception) -> PipelineError:
    return PipelineError(
        f"{folder} could not be loaded as a {cls.__name__} ({type(error).__name__}:"
        f" {first_line(error, most=300)}); expected what `pipeline.save_pretrained(folder)` writes"
        " with the installed diffusers and transformers: save or download it again, or upgrade"
        " them"
    )
