"""Which study does a name mean, and what is in its TOML?

    resolve_spec("tiny-flux")                        # a study that comes with the package
    resolve_spec("./my-study.toml")                  # a study TOML
    resolve_spec("./my-flux-folder")                 # a diffusers folder: a bare study
    resolve_spec("black-forest-labs/FLUX.1-dev")     # a Hub id: a bare study

Convention: paths in a TOML are relative to the TOML. Nothing is downloaded, and no weights are
opened; `shapes.deriving` completes a bare study.
"""

import os.path
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sensitivity.core.words import did_you_mean
from sensitivity.errors import PipelineError, SpecError, UnknownModelError
from sensitivity.spec._base import wrong_keys
from sensitivity.spec.prompts import read_prompts
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_spec import ModelSection, StudySpec


def load_spec(path: Path) -> StudySpec:
    """Read a study TOML. Its relative paths are taken from the TOML's folder.

    Raises:
        SpecError: the file cannot be read, is no TOML, or is no study; the message names the keys.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"{path}: {error.strerror}; expected a study TOML: `sensitivity models` lists those"
            " that come with the package"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} is no TOML: {error}; expected a study such as studies/tiny-flux.toml: correct"
            " it"
        ) from None
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        value = data.get(section, {}).get(key) if isinstance(data.get(section), dict) else None
        if isinstance(value, str):
            data[section][key] = path.parent / value
    prompts = data.get("prompts")
    if isinstance(prompts, dict) and isinstance(prompts.get("file"), str):
        data["prompts"] = _with_file(prompts, path)
    return parse_spec(data, where=str(path))


def _with_file(prompts: dict[str, Any], path: Path) -> dict[str, Any]:
    """The keys of `[prompts]` in the TOML `path`, with the prompts of the file that they name."""
    if prompts.keys() & {"search", "held_out"}:
        raise SpecError(
            f"{path} is no study: prompts: `file` and the prompts themselves are both given;"
            " expected one of them: take the other out"
        )
    read = read_prompts(path.parent / prompts["file"]).model_dump()
    return read | {key: value for key, value in prompts.items() if key != "file"}


def parse_spec(data: dict[str, Any], *, where: str) -> StudySpec:
    """A study from parsed TOML; `where` is what messages call it.

    Raises:
        SpecError: it is no study; the message names the wrong keys.
    """
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(
            f"{where} is no study: {wrong_keys(error, 'study')}; correct these keys,"
            " studies/tiny-flux.toml is an example"
        ) from None


def resolve_spec(model: str) -> StudySpec:
    """The study that `model` means.

    Args:
        model: a study's name, a TOML's path, a diffusers folder or a Hub id, tried in this order.

    Raises:
        UnknownModelError: it is none of them; the message gives the closest study names.
        PipelineError: it is a folder without `model_index.json`.
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
                f"{model} is a folder without model_index.json; expected a diffusers pipeline"
                " folder (`pipeline.save_pretrained(folder)` writes one): name the folder that has"
                " the file"
            )
        return bare_spec(path.resolve().name, ModelSection(path=path.resolve()))
    parts = model.split("/")
    is_hub_id = len(parts) == 2 and all(part.strip(".") for part in parts)
    if is_hub_id and not os.path.exists(model):
        return bare_spec(parts[1], ModelSection(hub=model))
    listed = "run `sensitivity models` for the list"
    hint = did_you_mean(model, studies, otherwise=listed, most=3, cutoff=0.5)
    raise UnknownModelError(
        f"unknown model {model!r}; expected a study name ({', '.join(studies)}), a study TOML, a"
        f" diffusers pipeline folder, or a Hub id org/name: {hint}"
    )


def bare_spec(name: str, model: ModelSection) -> StudySpec:
    """A study of which only the model is known; everything else has its default.

    Characters of `name` that the name of a study cannot have become hyphens.
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    spec = StudySpec(name=safe.lstrip("._-") or "model", model=model)
    spec._bare = True
    return spec
