"""What was a search asked for, so that a worker elsewhere can join it? `kept_request`,
`read_request`.

A search keeps its study, its request and the environment of its first process with its trials, as
JSON. A worker that joins reads them from the database, and puts in what is of its own host: the
device, the cache, the database.

    run_search(..., kept=kept_request(spec, request, evaluator.environment))
    spec, request = read_request(store, "tiny-flux-nvfp4-b200-9f0e520d", device="cuda")

Nothing of another host becomes part of a result by this: the worker computes the study's name from
what it finds itself, and is refused where that is another one (`check_joined`).

Conventions. Paths of a study are absolute. A password is never kept, since the database is none of
what is kept.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sensitivity.core.file_names import is_target_file
from sensitivity.core.words import and_more, did_you_mean, first_line, printable
from sensitivity.errors import StoreError, UserError
from sensitivity.search.seals import SETTINGS, StudyEntry, kept_attribute, list_studies
from sensitivity.search.store import Store
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.requests import SearchRequest

REQUEST = "request"
"""The name of what is kept, among the facts of a study."""
OF_THIS_HOST = ("storage", "device", "cache_folder", "shared", "joins")
"""Fields of a request that are not kept."""
_CHOSEN = ("arithmetic", "latency", "runtime", "target")
"""Fields whose None lets the program choose, by what is installed here."""
_COMPARED = ("device", "python", "threads", "cuda", "driver")
"""Parts of an environment that may differ, beside the versions of packages."""


def kept_request(
    spec: StudySpec, request: SearchRequest, environment: Mapping[str, str]
) -> dict[str, Any]:
    """What is kept of a search, as `run_search` takes it.

    Args:
        spec: the study, complete.
        request: what is asked for.
        environment: where its first process runs (`core.environment`).
    """
    own = {field.name: getattr(request, field.name) for field in fields(request)}
    asked = {name: _plain(value) for name, value in own.items() if name not in OF_THIS_HOST}
    if request.target is not None and is_target_file(request.target):
        asked["target"] = os.path.abspath(request.target)
    study = spec.model_dump(mode="json", exclude_unset=True)
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        if study.get(section, {}).get(key) is not None:
            study[section][key] = os.path.abspath(study[section][key])
    target = study.get("pricing", {}).get("target")
    if target is not None and is_target_file(target):
        study["pricing"]["target"] = os.path.abspath(target)
    here = _threads(request.device) | dict(environment)
    return {REQUEST: {"study": study, "asked": asked, "environment": here}}


def read_request(
    store: Store, study: str, *, device: str, **of_this_host: Any
) -> tuple[StudySpec, SearchRequest]:
    """The study and the request of a search that is in the database.

    Args:
        store: the database.
        study: the name of the search.
        device: where torch runs here.
        of_this_host: other fields of the request: `storage`, `cache_folder`.

    Raises:
        StoreError: there is no such study, or it keeps no request that this version can read.
        UserError: the model does not lie where the study names it, or the device is not here.
    """
    kept, settings = _kept(store, study)
    try:
        data = kept["study"]
        spec, asked = StudySpec.model_validate(data), dict(kept["asked"])
    except ValidationError as error:
        raise _unreadable(store, study, _first_fault(error)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(store, study, first_line(error)) from None
    _check_here(spec, study)
    asked["budget"] = settings.get("budget", asked.get("budget"))
    mine = {"device": device, "shared": True, "joins": study, **of_this_host}
    try:
        return spec, SearchRequest(**{**asked, **mine})
    except TypeError as error:
        raise _unreadable(store, study, first_line(error)) from None


def check_joined(store: Store, study: str, name: str, environment: Mapping[str, str]) -> None:
    """Raise StoreError where what would be searched here, `name`, is not the study that is joined.

    Args:
        store: the database.
        study: the name of the study that is joined.
        name: the name of the study that the conditions here are of.
        environment: where this process runs.
    """
    if name == study:
        return
    kept = _kept(store, study)[0].get("environment", {})
    device = environment.get("device_type", "cpu")
    found = _differences(kept, _threads(device) | dict(environment))
    why = (
        and_more(found, most=6, separator="; ")
        if found
        else "the weights, the prompts or prices that were measured differ"
    )
    raise StoreError(
        f"a worker here would search {name}, not {study} ({why}); expected the conditions of that"
        " study: make them the same, or run `sensitivity search`, which begins a study of its own"
    )


def _kept(store: Store, study: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is kept of a study: its request and its settings."""
    if not store.has_studies():
        raise _holds_none(store, study)
    with store.reading() as session:
        connection = session.connection()
        entries = [own for own in list_studies(connection) if own.is_ours and not own.is_set_aside]
        entry = _named(entries, study, store)
        texts = [kept_attribute(connection, entry.study_id, key) for key in (REQUEST, SETTINGS)]
    request, settings = (_object(text) for text in texts)
    if request is None:
        raise StoreError(
            f"the study {study} in {store.describe()} keeps no request, since an earlier version"
            " searched it; expected one that this version has begun or continued: join with its"
            " `sensitivity search` command"
        )
    return request, settings or {}


def _named(entries: list[StudyEntry], study: str, store: Store) -> StudyEntry:
    """The study of a name."""
    found = [own for own in entries if own.name == study]
    if found:
        return found[0]
    names = [own.name for own in reversed(entries)]
    if not names:
        raise _holds_none(store, study)
    listed = and_more(names, most=8)
    raise StoreError(
        f"{store.describe()} has no study {printable(study)!r}; expected one of {listed}:"
        f" {did_you_mean(study, names, otherwise='name one of them')}"
    )


def _check_here(spec: StudySpec, study: str) -> None:
    """Raise UserError where a folder that the study names is not on this host."""
    for name, path in (
        ("model.path", spec.model.path),
        ("model.config", spec.model.config),
        ("fidelity.weights", spec.fidelity.weights),
    ):
        if path is not None and not Path(path).exists():
            raise UserError(
                f"{study} has {name} = {printable(str(path))!r}, which is not on this host;"
                " expected it at the same path as where the search was begun: copy or mount it"
                " there, or run `sensitivity search` with the model's path here"
            )


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What differs between two environments, in words."""
    names = [name for name in there if name in here and there[name] != here[name]]
    packages = [name for name in names if name not in (*_COMPARED, "device_type")]
    ordered = [name for name in ("device_type", *_COMPARED) if name in names] + packages
    return [f"{name} is {there[name]} there and {here[name]} here" for name in ordered]


def _threads(device: str) -> dict[str, str]:
    """The threads of torch, which decide results on the CPU."""
    if not device.startswith("cpu"):
        return {}
    import torch

    return {"threads": str(torch.get_num_threads())}


def _holds_none(store: Store, study: str) -> StoreError:
    return StoreError(
        f"{store.describe()} holds no study; expected {printable(study)!r}: run `sensitivity"
        " search`, which begins one"
    )


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


def _unreadable(store: Store, study: str, reason: str) -> StoreError:
    return StoreError(
        f"what the study {study} in {store.describe()} was asked for cannot be read ({reason});"
        " expected what this version writes: install the version that began the search, or join"
        " with its `sensitivity search`"
    )


def _object(text: object) -> dict[str, Any] | None:
    """The JSON object of a text; None where it holds none."""
    try:
        found = json.loads(str(text))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _plain(value: Any) -> Any:
    """A field's value as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(own) for own in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
