"""What does `model_index.json` say a pipeline is made of?"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from sensitivity.errors import PipelineError, SpecError
from sensitivity.models.hub import hub_answers, quiet
from sensitivity.spec.study_spec import StudySpec

TEXT_CLASSES = ("Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor")


def enable_vae_tiling(spec: StudySpec, pipe: Any) -> None:
    """Let the pipeline decode in tiles if the study says so (`model.vae_tiling`).

    Raises SpecError where its VAE cannot, or where it has none.
    """
    if not spec.model.vae_tiling:
        return
    vae: Any = getattr(pipe, "vae", None)
    try:
        vae.enable_tiling()
    except (
        AttributeError,
        NotImplementedError,
    ):  # diffusers' classes lack the method, or have one that raises
        has = (
            "has no vae"
            if vae is None
            else f"has a vae of class {type(vae).__name__}, which does not decode in tiles"
        )
        raise SpecError(
            f"{spec.name}: `model.vae_tiling` is true, and the {type(pipe).__name__} {has}; allowed"
            " is true where the VAE has `enable_tiling`: take the line out of the study TOML"
        ) from None


def pipeline_call(spec: StudySpec) -> tuple[str, dict[str, Any]]:
    """The class name of the study's pipeline, and {argument of its call: default}; nothing is
    built.
    """
    folder = config_folder(spec)
    with quiet():
        cls = pipeline_class(
            str(read_json(folder / "model_index.json").get("_class_name", "")), folder
        )
    parameters = inspect.signature(cls.__call__).parameters
    return cls.__name__, {name: p.default for name, p in parameters.items() if name != "self"}


def no_component(spec: StudySpec, pipeline: str, found: str, names: list[str]) -> str:
    """The message for a component that a pipeline has not."""
    return (
        f"{spec.name}: the {pipeline} has no module {found!r}; it has {', '.join(names) or 'none'}:"
        " pass one with --component, or set `model.component` in a study TOML"
    )


def config_folder(spec: StudySpec) -> Path:
    """Where the study's config files are; those of a Hub id are fetched, JSON only."""
    model = spec.model
    folder = model.config or model.path or _fetch(spec)
    if not (folder / "model_index.json").is_file():
        raise PipelineError(
            f"{folder} has no model_index.json; allowed is a diffusers pipeline folder, weights may"
            " be missing: name the folder that holds it"
        )
    return folder


def _fetch(spec: StudySpec) -> Path:
    from huggingface_hub import snapshot_download

    offline = not hub_answers()
    try:
        with quiet():
            return Path(
                snapshot_download(
                    str(spec.model.hub),
                    revision=spec.model.revision,
                    allow_patterns=["*.json"],
                    local_files_only=offline,
                )
            )
    except (
        Exception
    ) as error:  # the Hub's client has an error for each way in which a file cannot be had
        reason = (
            "the Hub does not answer, and the cache does not hold all of them"
            if offline
            else f"{type(error).__name__}: {_first_line(error)}"
        )
        raise PipelineError(
            f"the config files of {spec.model.hub} could not be loaded from the Hugging Face Hub or"
            f" its local cache ({reason}); allowed is a public diffusers pipeline that is reachable"
            " or already downloaded: check the id and the network, log in for gated models (`hf"
            " auth login`), or pass a folder made by `pipeline.save_pretrained`, weights may be"
            " missing"
        ) from error


def pipeline_class(name: str, folder: Path) -> Any:
    import diffusers

    cls = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise PipelineError(
            f"{folder / 'model_index.json'} names the class {name!r}; allowed are pipelines of the"
            f" installed diffusers {diffusers.__version__}: upgrade diffusers, or correct"
            " _class_name"
        )
    return cls


def _is_module_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and bool(entry[1])
        and not _is_text(str(entry[1]))
        and "Scheduler" not in str(entry[1])
    )


def _is_text(name: str) -> bool:
    return name.endswith(TEXT_CLASSES)


def component_class(library: str, name: str) -> Any:
    """A class of diffusers, transformers, or of one of diffusers' pipelines; nothing else is
    imported.
    """
    known = library in ("diffusers", "transformers")
    module: Any = importlib.import_module(library if known else "diffusers.pipelines")
    if not known:
        module = getattr(module, library, None) if library.isidentifier() else None
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        raise PipelineError(
            f"model_index.json names {library}.{name}; allowed are classes of the installed"
            " diffusers and transformers: upgrade them, remote code is not run"
        )
    return cls


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"{path} could not be loaded ({_first_line(error)}); allowed is the JSON that"
            " `save_pretrained` writes: write it again"
        ) from None
    if not isinstance(data, dict):
        raise PipelineError(
            f"{path} holds a {type(data).__name__}; allowed is the JSON object that"
            " `save_pretrained` writes: write it again"
        )
    return data


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
