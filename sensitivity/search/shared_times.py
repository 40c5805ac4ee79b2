"""Where are measured times of Linear shapes kept? In one database for all studies on a machine.

Times of a shape hold for a device, its driver, package versions and a compile mode, and for nothing
that a study says. So they lie in the user's cache folder and not with a study. `SharedShapeTimes`
opens the database for each access only: several processes may measure at the same time.

    times = SharedShapeTimes(default_shape_times_path())
    times.save_shape_time(machine, "default", key, row)

Rows are those of `search.store.Store`; `latency.shape_times` says what they hold.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from sensitivity.search.store import Store

SHARED_WAIT_S = 60.0


def default_shape_times_path() -> Path:
    """The database in the user's cache folder, where the platform has it."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "shape-times.db"


class SharedShapeTimes:
    """Measured times of shapes at `path`, a `latency.shape_times.ShapeTimeCache`.

    Other processes may use it meanwhile; an access waits up to `SHARED_WAIT_S` for them.

    Raises StoreError and OutputError as `search.database.Database` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """`Store.save_shape_time`."""
        with Store.open(self.path, wait_s=SHARED_WAIT_S) as store:
            store.save_shape_time(machine, compile_mode, key, row)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """`Store.find_shape_times`; a database that is not there is not made for it."""
        if not self.path.is_file():
            return {}
        with Store.open(self.path, wait_s=SHARED_WAIT_S, for_reading=True) as store:
            return store.find_shape_times(machine, compile_mode)

    def find_machines(self, compile_mode: str) -> list[tuple[dict[str, str], frozenset[str]]]:
        """`Store.find_machines`."""
        if not self.path.is_file():
            return []
        with Store.open(self.path, wait_s=SHARED_WAIT_S, for_reading=True) as store:
            return store.find_machines(compile_mode)
