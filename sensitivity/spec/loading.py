"""Where does a study come from? By name, by path, or bare from a diffusers folder or a Hub id.

spec = resolve_spec("tiny-flux")               # a study by name
spec = resolve_spec("./my-study.toml")         # a study by path
spec = resolve_spec("./my-flux-folder")        # a diffusers folder or a Hub id: a bare study
"""

import difflib
import os.path
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sensitivity.errors import PipelineError, SpecError, UnknownModelError
from sensitivity.spec.prompts import read_prompts
from sensitivity.spec.study_spec import ModelSection, StudySpec


def studies_folder() -> Path:
    """The folder of the studies that come with the package: beside the modules when installed,
    beside the package in a checkout.
    """
    package = Path(__file__).parents[1]
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def list_studies() -> dict[str, Path]:
    """{name: TOML} of the studies that come with the package, sorted."""
    folder = studies_folder()
    nested = [
        path
        for path in folder.glob("**/*.toml")
        if not any((parent / "model_index.json").is_file() for parent in path.parents)
    ]
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
            f"{path}: {error.strerror}; a study is a readable TOML file; see `sensitivity models`"
            " for those that ship"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} is no TOML: {error}; correct it, studies/tiny-flux.toml is an example"
        ) from None
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        value = data.get(section, {}).get(key) if isinstance(data.get(section), dict) else None
        if isinstance(value, str):
            data[section][key] = path.parent / value
    prompts = data.get("prompts")
    if isinstance(prompts, dict) and isinstance(prompts.get("file"), str):
        if prompts.keys() & {"search", "held_out"}:
            raise SpecError(
                f"{path} is no study: prompts: `file` and the prompts themselves are both given;"
                " keep one of them"
            )
        data["prompts"] = read_prompts(path.parent / prompts["file"]).model_dump() | {
            k: v for k, v in prompts.items() if k != "file"
        }
    return parse_spec(data, where=str(path))


def parse_spec(data: dict[str, Any], *, where: str) -> StudySpec:
    """A study from parsed TOML. Raises SpecError that names each wrong key."""
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'study'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        raise SpecError(
            f"{where} is no study: {'; '.join(problems[:5])}; correct these keys,"
            " studies/tiny-flux.toml is an example"
        ) from None


def resolve_spec(model: str) -> StudySpec:
    """The study that `--model` means: a study's name, a TOML's path, a diffusers folder or a Hub
    id, tried in this order.

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
                f"{model} is a folder without model_index.json; a diffusers pipeline folder has one"
                " (`pipeline.save_pretrained(folder)` writes it); name the folder that holds it"
            )
        return bare_spec(path.resolve().name, ModelSection(path=path.resolve()))
    if (
        model.count("/") == 1
        and all(part and part.strip(".") for part in model.split("/"))
        and not os.path.exists(model)
    ):
        return bare_spec(model.split("/")[1], ModelSection(hub=model))
    closest = difflib.get_close_matches(model, studies, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(closest)}?"
        if closest
        else "run `sensitivity models` for the list"
    )
    raise UnknownModelError(
        f"unknown model {model!r}; allowed are a study name ({', '.join(studies)}), a study TOML, a"
        f" diffusers pipeline folder, or a Hub id org/name: {hint}"
    )


def bare_spec(name: str, model: ModelSection) -> StudySpec:
    """A study of which only the model is known: the pipeline's own defaults, general prompts,
    pretrained AlexNet LPIPS.
    """
    safe = (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip(
            "._-"
        )
        or "model"
    )
    spec = StudySpec(name=safe, model=model)
    spec._bare = True
    return spec
