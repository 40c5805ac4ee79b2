"""How does a study's model come into memory? The one importer of diffusers.

`load_pipeline` turns the `[model]` section of a study into a diffusers pipeline on a device; `painting` draws with it.

    loaded = load_pipeline(spec, device="cpu")

Conventions: safetensors only, no remote code, no custom pipelines. What it does not do: several denoisers, offloading.
"""

import hashlib
import logging
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import nn

from sensitivity.errors import PipelineError, SpecError
from sensitivity.spec import StudySpec

WHOLE_FILE_BYTES = 64 * 2**20
SAMPLED_CHUNKS, CHUNK_BYTES = 64, 2**20
HUB_TIMEOUT_S = 8.0


@dataclass(frozen=True, kw_only=True)
class LoadedPipeline:
    """A pipeline on a device, and what identifies its weights.

    Attributes:
        spec: the study that it was loaded for.
        pipe: the diffusers pipeline, in bf16, no progress bar.
        denoiser: the component whose Linears are studied.
        device: where it runs, as torch names it.
        weights_hash: sha256 over all weight files (see `hash_weights`).
    """

    spec: StudySpec
    pipe: Any
    denoiser: nn.Module
    device: str
    weights_hash: str


def load_pipeline(spec: StudySpec, *, device: str) -> LoadedPipeline:
    """Load the study's pipeline in bf16.

    Raises:
        PipelineError: the folder or Hub id cannot be loaded (no such id, no network, a damaged file), or it has no such component.
        SpecError: the study decodes in tiles, and the pipeline's VAE cannot.
    """
    source = str(spec.model.path or spec.model.hub)
    offline = spec.model.hub is not None and not _hub_answers()
    with _quiet():
        from diffusers import DiffusionPipeline

        try:
            pipe = DiffusionPipeline.from_pretrained(
                source, revision=spec.model.revision, dtype=torch.bfloat16, use_safetensors=True, local_files_only=offline
            )
        except Exception as error:  # every loader of every component may raise its own kind; all mean that this model did not load
            raise PipelineError(_loading_message(spec, source, error, offline)) from error
        pipe.set_progress_bar_config(disable=True)
        pipe.to(device)
    denoiser = getattr(pipe, spec.model.component, None)
    if not isinstance(denoiser, nn.Module):
        parts = ", ".join(name for name, part in pipe.components.items() if isinstance(part, nn.Module))
        raise PipelineError(
            f"{spec.name}: the {type(pipe).__name__} has no module {spec.model.component!r}; it has {parts}: set `model.component` in a study TOML"
        )
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    enable_vae_tiling(spec, pipe)
    return LoadedPipeline(spec=spec, pipe=pipe, denoiser=denoiser, device=device, weights_hash=hash_weights(spec, pipe))


def enable_vae_tiling(spec: StudySpec, pipe: Any) -> None:
    """Let the pipeline decode in tiles if the study says so (`model.vae_tiling`). Raises SpecError where its VAE cannot, or where it has none."""
    if not spec.model.vae_tiling:
        return
    vae: Any = getattr(pipe, "vae", None)
    try:
        vae.enable_tiling()
    except (AttributeError, NotImplementedError):  # diffusers' classes lack the method, or have one that raises
        has = "has no vae" if vae is None else f"has a vae of class {type(vae).__name__}, which does not decode in tiles"
        raise SpecError(
            f"{spec.name}: `model.vae_tiling` is true, and the {type(pipe).__name__} {has}; allowed is true where the VAE has `enable_tiling`: "
            "take the line out of the study TOML"
        ) from None


def _hub_answers() -> bool:
    """Whether the Hugging Face Hub answers anything at all in `HUB_TIMEOUT_S`. The loaders' own retries take many minutes where it does not."""
    from huggingface_hub import constants

    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
        except HTTPError:
            pass  # a refusal is an answer
        except (OSError, ValueError):
            return
        answered.set()

    if not constants.HF_HUB_OFFLINE:
        asking = threading.Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
        asking.start()
        asking.join(HUB_TIMEOUT_S)
    return answered.is_set()


def _loading_message(spec: StudySpec, source: str, error: Exception, offline: bool) -> str:
    first = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
    if spec.model.hub is not None:
        reason = (
            f"the Hub does not answer in {HUB_TIMEOUT_S:g} s, and the cache does not hold all of it"
            if offline
            else f"{type(error).__name__}: {first}"
        )
        return (
            f"{source} could not be loaded from the Hugging Face Hub or its local cache ({reason}); allowed is a public diffusers "
            "pipeline that is reachable or already downloaded: check the id and the network, log in for gated models (`hf auth login`), or "
            "pass a folder made by `pipeline.save_pretrained`"
        )
    return f"{source} could not be loaded as a diffusers pipeline ({type(error).__name__}: {first}); save it again with `pipeline.save_pretrained(folder)`"


class _quiet:  # noqa: N801 - reads as a statement: with _quiet()
    """Loading prints bars and notices of three libraries; none of them is about the user's model."""

    def __enter__(self) -> None:
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        self.loggers = (diffusers_logging, transformers_logging)
        self.levels = [library.get_verbosity() for library in self.loggers]
        for library in self.loggers:
            library.set_verbosity_error()
            library.disable_progress_bar()
        self.catcher = warnings.catch_warnings()
        self.catcher.__enter__()
        warnings.simplefilter("ignore")
        self.root = logging.getLogger("torch.utils._pytree")
        self.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.catcher.__exit__(None, None, None)
        for library, level in zip(self.loggers, self.levels, strict=True):
            library.set_verbosity(level)


def hash_weights(spec: StudySpec, pipe: Any) -> str:
    """sha256 of every weight and config file: the whole of files up to 64 MiB, 64 evenly spread MiB and the size of larger ones."""
    folder = spec.model.path
    if folder is None:
        folder = Path(pipe.config._name_or_path) if Path(str(pipe.config.get("_name_or_path", ""))).is_dir() else None
    digest = hashlib.sha256()
    if folder is None:  # from the Hub: the id and the revision that was asked for
        digest.update(f"{spec.model.hub}@{spec.model.revision}".encode())
        return digest.hexdigest()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and p.is_file()):
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
