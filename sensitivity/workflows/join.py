"""How does a process join a search that another one began? `read_search_request`.

    spec, request = read_search_request("tiny-flux-nvfp4-b200-9f0e520d", storage, device="cuda")
    outcome = find_recipe(spec, request)

The database keeps what the search was asked for (`kept_request`). The device, the cache and the
database are those of this process. `find_recipe` refuses to work where its conditions are those of
another study, and returns when the study has its trials.
"""

from pathlib import Path
from typing import Any

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import StoreError
from sensitivity.search.store import Store
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.kept_request import read_request
from sensitivity.workflows.requests import SearchRequest


def read_search_request(
    study: str,
    storage: Storage | str,
    *,
    device: str,
    cache_folder: Path | None = None,
    command: str | None = None,
) -> tuple[StudySpec, SearchRequest]:
    """The study and the request of a search that is in a database, for this host.

    Args:
        study: the name of the search, as `status` shows it.
        storage: where the database lies.
        device: where torch runs here.
        cache_folder: where bf16 references are kept here; None is the user's cache.
        command: the command line that joins; None keeps that of the search.

    Raises:
        StoreError: there is no such database or study, or it keeps no request that this version can
            read.
        UserError: the model does not lie where the study names it, or the device is not here.
    """
    place = parse_storage(storage)
    if isinstance(place, Path) and not place.is_file():
        raise StoreError(
            f"{place} is not there; expected the database of a search that goes on: name it in"
            " `storage`"
        )
    own: dict[str, Any] = {"storage": place}
    if cache_folder is not None:
        own["cache_folder"] = cache_folder
    if command is not None:
        own["command"] = command
    with Store.read(place, makes_again=False) as store:
        return read_request(store, study, device=device, **own)
