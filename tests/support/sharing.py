"""Workers that share work without a database: claims are files in a folder.

first, second = FolderSharing(folder, "a"), FolderSharing(folder, "b")     # in threads or processes
first.did                                                                  # the items that it did
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEADLINE_S = 20.0


class FolderSharing:
    """One worker of those that share a folder; see `fidelity.sharing.Sharing`.

    Attributes:
        did: (scope, item) of what this worker did.
        scopes: what it was asked for.
    """

    def __init__(self, folder: Path, name: str = "worker") -> None:
        self.folder, self.name = folder, name
        self.did: list[tuple[str, str]] = []
        self.scopes: list[str] = []

    def run(
        self,
        scope: str,
        items: Sequence[str],
        *,
        is_done: Callable[[str], bool],
        do: Callable[[str], None],
        wait_s: float = 0.5,  # noqa: ARG002 - tests wait for less
        noted: Callable[[str], Any] = lambda _text: None,  # noqa: ARG002
    ) -> None:
        """Do what no other worker does; wait for the rest."""
        assert len(scope) <= 200
        assert all(len(item) <= 200 for item in items)
        self.scopes.append(scope)
        self.folder.mkdir(parents=True, exist_ok=True)
        left, until = list(items), time.monotonic() + DEADLINE_S
        while left:
            assert time.monotonic() < until, f"{self.name} waits for {left} of {scope}"
            left = [item for item in left if not self._settle(scope, item, is_done, do)]
            time.sleep(0.005)

    def _settle(
        self,
        scope: str,
        item: str,
        is_done: Callable[[str], bool],
        do: Callable[[str], None],
    ) -> bool:
        if is_done(item):
            return True
        claim = self.folder / hashlib.sha256(f"{scope} {item}".encode()).hexdigest()
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            return False
        try:
            self.did.append((scope, item))
            do(item)
        finally:
            claim.unlink()
        return True
