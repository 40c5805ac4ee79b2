"""How are a pipeline's parts without weights loaded, and how is the pipeline made of all parts?

    tokenizer = load_data_part(index, "tokenizer")      # or a scheduler, a processor, a guider
    pipe = make_pipeline(index, {"tokenizer": tokenizer, "transformer": module, ...})

Each part is loaded by its own class from its own folder, and the pipeline by its constructor. So
no loader of a whole pipeline decides which files are read: diffusers' own would load what it finds,
pickles and the folder's Python among it.

What it does not do: parts with weights (`pipeline_source`, `skeleton`).
"""

import inspect
from collections.abc import Mapping
from typing import Any

from sensitivity.core.words import first_line
from sensitivity.errors import PipelineError, SensitivityError
from sensitivity.models.component_classes import Kind, kind_of
from sensitivity.models.config_files import check_component_files
from sensitivity.models.hub import quiet
from sensitivity.models.missing_packages import lacks_package, missing_package
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.only_data import only_data


def load_data_part(index: ModelIndex, name: str) -> Any:
    """A component without weights: a scheduler, tokenizer, processor or guider.

    Raises:
        MissingPackageError: its class needs a package that is not installed.
        PipelineError: its class is none of these, or refuses the files in its folder.
    """
    entry, folder = index.components[name], index.folder / name
    cls = entry.load_class()
    kind = kind_of(cls)
    if kind is Kind.MODULE:
        raise PipelineError(
            f"{index.folder} names the class {entry.class_name} for {name}, which has weights;"
            " expected a scheduler, tokenizer, processor or guider: correct model_index.json"
        )
    check_component_files(folder)
    options = {} if kind in (Kind.SCHEDULER, Kind.GUIDER) else {"trust_remote_code": False}
    try:
        with quiet(), only_data():
            part = cls.from_pretrained(str(folder), local_files_only=True, **options)
    except SensitivityError:
        raise
    except Exception as error:  # every class refuses its files in its own way
        if missing_package(error) is not None:
            raise lacks_package(entry.class_name, error) from error
        raise PipelineError(
            f"{folder} cannot be loaded as a {entry.class_name} ({type(error).__name__}:"
            f" {first_line(error, most=300)}); expected the files that `save_pretrained` writes:"
            " write them again"
        ) from error
    if kind_of(type(part)) is not kind:
        raise PipelineError(
            f"{folder} was loaded as a {type(part).__name__}; expected a {kind}: correct the class"
            f" of {name} in model_index.json"
        )
    return part


def make_pipeline(
    index: ModelIndex, parts: Mapping[str, Any], *, cls: Any = None, complete: bool = True
) -> Any:
    """The pipeline of these parts.

    Args:
        index: what its folder says. Its other arguments are passed, and its absent components are
            None.
        parts: {component: loaded}. Those that the pipeline's constructor does not take are left
            out.
        cls: a subclass of the pipeline's class; the class itself by default.
        complete: whether every component that the constructor needs must be there; those that are
            not are None otherwise.

    Raises:
        MissingPackageError: its code needs a package that is not installed.
        PipelineError: the pipeline cannot be made of them.
    """
    base = index.pipeline_class()
    accepted = inspect.signature(base.__init__).parameters
    given: dict[str, Any] = {**dict.fromkeys(index.absent), **index.arguments, **parts}
    needed = [
        name
        for name, p in accepted.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name != "self"
    ]
    found = {key: value for key, value in given.items() if key in accepted}
    if not complete:
        found = dict.fromkeys(needed) | found
    try:
        with quiet(), only_data():
            return (cls or base)(**found)
    except SensitivityError:
        raise
    except Exception as error:  # a pipeline's constructor may raise anything
        if missing_package(error) is not None:
            raise lacks_package(base.__name__, error) from error
        raise PipelineError(
            f"{index.folder} is no complete {base.__name__} ({type(error).__name__}:"
            f" {first_line(error, most=300)}); expected a folder that"
            " `pipeline.save_pretrained` wrote, with or without weights: give each component its"
            " config.json"
        ) from error
