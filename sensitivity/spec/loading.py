"""Which study does a name mean, and what is in its TOML?

    resolve_spec("tiny-flux")                        # a study that comes with the package
    resolve_spec("./my-study.toml")                  # a study TOML
    resolve_spec("./my-flux-folder")                 # a diffusers folder: a bare study
    resolve_spec("black-forest-labs/FLUX.1-dev")     # a Hub id: its study, here flux1-dev
    resolve_spec("org/name")                         # a Hub id without a study: a bare study

Convention: paths in a TOML are relative to the TOML. Nothing is downloaded, and no weights are
opened; `shapes.deriving` completes a bare study.
"""

import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sensitivity.core.file_names import is_target_file, slug, url_scheme
from sensitivity.core.outside_files import STUDY, read_toml, reason
from sensitivity.core.words import did_you_mean, printable
from sensitivity.errors import PipelineError, SpecError, UnknownModelError
from sensitivity.spec._base import wrong_keys
from sensitivity.spec.not_a_pipeline import describe_file, describe_folder, hub_id_in
from sensitivity.spec.prompts import PromptSection, read_prompts
from sensitivity.spec.shipped import list_studies, study_of_hub
from sensitivity.spec.study_spec import ModelSection, StudySpec

HUB_ID = re.compile(
    r"(?P<id>(?!\.+/)[\w.-]+/(?!\.+(?:@|$))[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
"""org/name, and the revision that may follow it."""


def load_spec(path: Path) -> StudySpec:
    """Read a study TOML. Its relative paths are taken from the TOML's folder.

    Raises:
        SpecError: the file cannot be read, is no TOML, or is no study; the message names the keys.
    """
    try:
        data = read_toml(path, STUDY)
    except (OSError, ValueError) as error:
        raise SpecError(_unread(path, error)) from None
    _resolve_paths(data, path)
    prompts = data.get("prompts")
    if isinstance(prompts, dict) and isinstance(prompts.get("file"), str):
        data["prompts"] = _with_file(prompts, path)
    return parse_spec(data, where=str(path))


def _unread(path: Path, error: OSError | ValueError) -> str:
    """The message for a study that cannot be read."""
    if isinstance(error, OSError):
        return (
            f"{path}: {reason(error)}; expected a study TOML: `sensitivity models` lists those that"
            " come with the package"
        )
    return f"{path} is no TOML: {printable(str(error))}; studies/tiny-flux.toml is an example"


def _resolve_paths(data: dict[str, Any], path: Path) -> None:
    """Make the paths in the TOML `path` paths from here, in `data`.

    What a study reads is below its folder, so that a study from elsewhere reads no other files. A
    model's folder and the weights of the LPIPS net may also be absolute, as `save_study` writes
    them: their texts never become part of a result.

    Raises:
        SpecError: a path leads out of the study's folder.
    """
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        value = _text_in(data, section, key)
        if value is not None:
            inside = os.path.normpath(value).split(os.sep)[0] != ".."
            _check_path(inside, value, f"{section}.{key}", path)
            data[section][key] = path.parent / value
    if (file := _text_in(data, "prompts", "file")) is not None:
        _check_path(is_below(path.parent, file), file, "prompts.file", path)
    target = _text_in(data, "pricing", "target")
    if target is not None and (is_target_file(target) or re.search(r"[/\\\0]", target)):
        is_file = is_target_file(target)
        _check_path(is_file and is_below(path.parent, target), target, "pricing.target", path)
        data["pricing"]["target"] = str(path.parent / target.strip())


def _text_in(data: dict[str, Any], section: str, key: str) -> str | None:
    """The text under a key of a section; None where there is none."""
    keys = data.get(section)
    value = keys.get(key) if isinstance(keys, dict) else None
    return value if isinstance(value, str) else None


def is_below(folder: Path, value: str) -> bool:
    """Whether a path is below a folder, links followed."""
    if "\0" in value:
        return False
    place = Path(os.path.realpath(folder))
    return Path(os.path.realpath(folder / value.strip())).is_relative_to(place)


def _check_path(is_right: bool, value: str, key: str, path: Path) -> None:
    """Raise SpecError unless a path in a study is one that it may have."""
    if is_right and "\0" not in value:
        return
    expected = {
        "prompts.file": "a file below the study's folder",
        "pricing.target": "the name of a device, or the file of one below the study's folder",
    }.get(key, "a path below the study's folder, or an absolute one")
    raise SpecError(
        f"{path} is no study: {key}: found {value[:200]!a}; expected {expected}: correct it"
    )


def _with_file(prompts: dict[str, Any], path: Path) -> PromptSection | dict[str, Any]:
    """The prompts of the file that `[prompts]` of the TOML `path` names, with its other keys."""
    if prompts.keys() & {"search", "held_out"}:
        raise SpecError(
            f"{path} is no study: prompts: `file` and the prompts themselves are both given;"
            " expected one of them: take the other out"
        )
    read = read_prompts(path.parent / prompts["file"])
    others = {key: value for key, value in prompts.items() if key != "file"}
    if not others:
        return read
    try:
        return PromptSection.model_validate(read.model_dump() | others).read_from(read.source)
    except ValidationError:
        return read.model_dump() | others  # the study's own check names the wrong keys


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


def resolve_spec(model: str | os.PathLike[str]) -> StudySpec:
    """The study that `model` means.

    Args:
        model: a study's name, a TOML's path, a diffusers folder or a Hub id, with or without
            `@revision`; tried in this order. The Hub id of a study that comes with the package
            means that study.

    Raises:
        UnknownModelError: it is none of them; the message gives the closest study names.
        PipelineError: it is a file, or a folder without `model_index.json`; the message says what
            it is and what to do with it.
        SpecError: the TOML is malformed.
    """
    model, studies = os.fspath(model), list_studies()
    if model in studies:
        return load_spec(studies[model])
    path = Path(model)
    if (scheme := url_scheme(model)) is not None and hub_id_in(model) is None:
        raise UnknownModelError(
            f"unknown model: found a {scheme}:// URL; expected a study name, a study TOML, a"
            " diffusers pipeline folder, or a Hub id org/name: name one of these"
        )
    if path.suffix == ".toml" and scheme is None:
        return load_spec(path)
    if model and os.path.isdir(model):  # unlike Path.is_dir, False for a name that is too long
        if not (path / "model_index.json").is_file():
            raise _not_a_pipeline(model, describe_folder(path))
        return bare_spec(path.resolve().name, ModelSection(path=path.resolve()))
    if model and os.path.exists(model):
        raise _not_a_pipeline(model, describe_file(path))
    if hub := HUB_ID.fullmatch(model):
        owner_and_name, revision = hub["id"], hub["revision"]
        if (study := study_of_hub(owner_and_name)) is not None:
            return _at_revision(load_spec(studies[study]), revision)
        name = owner_and_name.rpartition("/")[2]
        return bare_spec(name, ModelSection(hub=owner_and_name, revision=revision))
    if found := hub_id_in(model):
        raise UnknownModelError(
            f"unknown model {model.rpartition('@')[2]!r}; expected the Hub id alone: name {found}"
        )
    listed = "run `sensitivity models` for the list"
    hint = did_you_mean(model, studies, otherwise=listed, most=3, cutoff=0.5)
    raise UnknownModelError(
        f"unknown model {model!r}; expected a study name ({', '.join(studies)}), a study TOML, a"
        f" diffusers pipeline folder, or a Hub id org/name: {hint}"
    )


def spec_of(model: StudySpec | str | os.PathLike[str]) -> StudySpec:
    """The study itself, or the one that a name means. Raises as `resolve_spec`."""
    return model if isinstance(model, StudySpec) else resolve_spec(model)


def _at_revision(spec: StudySpec, revision: str | None) -> StudySpec:
    """The study at a revision of its model. Another one than its own makes another study, whose
    config files are that revision's.
    """
    own = spec.model.revision or ""
    if revision is None or revision == own or (len(revision) >= 7 and own.startswith(revision)):
        return spec
    model = spec.model.model_copy(update={"revision": revision, "config": None})
    return spec.model_copy(update={"name": slug(f"{spec.name}-at-{revision}"), "model": model})


def _not_a_pipeline(model: str, found: tuple[str, str]) -> PipelineError:
    """The error for a file or folder that is no pipeline: (what it is, the next step)."""
    what, step = found
    return PipelineError(
        f"{printable(model)} is {what}; expected a diffusers pipeline's folder, which has"
        f" model_index.json: {step}"
    )


def bare_spec(name: str, model: ModelSection) -> StudySpec:
    """A study of which only the model is known; everything else has its default.

    Characters of `name` that the name of a study cannot have become hyphens.
    """
    spec = StudySpec(name=slug(name, otherwise="model"), model=model)
    spec._bare = True
    return spec
