"""Where are measured times of Linear shapes kept? In one database for all studies on a machine.

Times of a shape hold for a device, its driver, package versions and a compile mode, and for nothing
that a study says. So they lie in the user's cache folder and not with a study. `SharedShapeTimes`
opens the database for each access only: several processes may measure at the same time, and reading
waits for none of them.

    times = SharedShapeTimes(default_shape_times_path())
    times.save_shape_time(machine, "default", key, row)

Rows are those of `search.store.Store`; `latency.shape_times` says what they hold.

Keeping times saves time and nothing else. So a database that cannot be read or written (a cache
folder that is read-only, a full disk, a damaged file) stops no measurement: a warning says so once,
and from then on the file is left alone, and times are kept in the memory of this process.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from sensitivity.errors import OutputError, StoreError
from sensitivity.search.store import Store

SHARED_WAIT_S = 60.0
log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


def default_shape_times_path() -> Path:
    """The database in the user's cache folder, where the platform has it."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "shape-times.db"


_in_memory: dict[Path, dict[str, dict[str, dict[str, Any]]]] = {}
"""{database that is left alone: {machine and compile mode: {key: row}}}"""


class SharedShapeTimes:
    """Measured times of shapes at `path`, a `latency.shape_times.ShapeTimeCache`.

    Other processes may use it meanwhile; a writer waits up to `SHARED_WAIT_S` for them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """`Store.save_shape_time`."""
        if self.path not in _in_memory:
            self._use(lambda store: store.save_shape_time(machine, compile_mode, key, row), None)
        if self.path in _in_memory:
            place = _place(machine, compile_mode)
            _in_memory[self.path].setdefault(place, {})[key] = dict(row)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """`Store.find_shape_times`; a database that is not there is not made for it."""
        none: dict[str, dict[str, Any]] = {}
        found = self._read(lambda store: store.find_shape_times(machine, compile_mode), none)
        kept = _in_memory.get(self.path, {}).get(_place(machine, compile_mode), {})
        return found | kept

    def find_machines(self, compile_mode: str) -> list[tuple[dict[str, str], frozenset[str]]]:
        """`Store.find_machines`."""
        return self._read(lambda store: store.find_machines(compile_mode), [])

    def _read(self, work: Callable[[Store], _Found], nothing: _Found) -> _Found:
        """What `work` finds; `nothing` where there is no database, or none that works."""
        if self.path in _in_memory or not self.path.exists():
            return nothing
        return self._use(work, nothing, lambda: Store.read(self.path))

    def _use(
        self,
        work: Callable[[Store], _Found],
        nothing: _Found,
        opened: Callable[[], Store] | None = None,
    ) -> _Found:
        """What `work` gives; `nothing`, and a warning, where the database does not work."""
        try:
            with opened() if opened else Store.open(self.path, wait_s=SHARED_WAIT_S) as store:
                return work(store)
        except (OutputError, StoreError) as error:
            _in_memory[self.path] = {}
            log.warning(
                "%s; measured times of shapes are neither read nor kept there, and the measurement"
                " goes on: mend or delete that file",
                str(error).partition(";")[0],
            )
            return nothing


def _place(machine: Mapping[str, str], compile_mode: str) -> str:
    return json.dumps([dict(machine), compile_mode], sort_keys=True)
