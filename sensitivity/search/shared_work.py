"""How do several workers do a list of items, each once? `SharedWork.run`, in each of them.

Every worker asks for the whole list. Each item is claimed (`search.claims`), done by one of them,
and released; an item whose worker dies is taken over. All come back when all items are done.

    work = SharedWork(Claims(database, worker))
    work.run("references", ["0", "1"], is_done=lambda item: path(item).exists(), do=draw)

It keeps the promises of `fidelity.sharing.Sharing`: what `do` raises is raised here and the item is
free again, and an item that `do` did not bring to be done is waited for by nobody.

A worker goes through the list from its beginning, past what others hold, and looks at those again
when there is nothing else to do. It waits without holding a transaction. A database that does not
answer is waited for (`search.patience`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.core.words import and_more
from sensitivity.search.claims import Claim, Claims, short_key
from sensitivity.search.patience import patient

SHORTEST, LONGEST = 0.4, 4.0
"""The first and the longest pause between two looks, in units of `wait_s`: 0.2 s and 2 s."""
GROWTH = 1.5
"""How much longer each pause is than the one before."""


@dataclass(frozen=True)
class SharedWork:
    """Divides items among the workers of a database.

    Attributes:
        claims: of this worker.
    """

    claims: Claims

    def run(
        self,
        scope: str,
        items: Sequence[str],
        *,
        is_done: Callable[[str], bool],
        do: Callable[[str], None],
        wait_s: float = 0.5,
        noted: Callable[[str], Any] = lambda _text: None,
    ) -> None:
        """Come back when all items are done. Arguments as in `fidelity.sharing.Sharing`.

        Pauses grow from `SHORTEST` to `LONGEST` times `wait_s`, and begin anew when an item got
        done. `noted` is told whom it waits for when that changes.

        Raises:
            what `is_done` and `do` raise; what `Claims.take` raises, but a lost database only after
            `patience.PATIENCE_S`.
        """
        left, pause_s, said = list(dict.fromkeys(items)), SHORTEST * wait_s, ""
        while True:
            before = len(left)
            left = self._pass(scope, left, is_done, do, noted)
            if not left:
                return
            held = self._held(scope, noted)
            waits = [held[key] for item in left if (key := short_key(item)) in held]
            if len(waits) < len(left):
                continue  # one is free
            text = _waiting(left, waits)
            if text != said:
                noted(text)
                said = text
            pause_s = SHORTEST * wait_s if len(left) < before else pause_s
            time.sleep(pause_s)
            pause_s = min(GROWTH * pause_s, LONGEST * wait_s)

    def _pass(
        self,
        scope: str,
        items: Sequence[str],
        is_done: Callable[[str], bool],
        do: Callable[[str], None],
        noted: Callable[[str], Any],
    ) -> list[str]:
        """Go through items once and do what is free. Returns those that others hold."""
        left, held = [], self._held(scope, noted)

        def is_there(item: str) -> bool:
            return patient(lambda: is_done(item), noted=noted)

        for item in items:
            if short_key(item) in held:
                left.append(item)
                continue
            if is_there(item):
                continue
            claim = self._take(scope, item, noted)
            if claim is None:
                left.append(item)
            else:
                try:
                    if not is_there(item):  # somebody may have just finished it
                        do(item)
                finally:
                    self.claims.release(claim)
            held = self._held(scope, noted)
        return left

    def _take(self, scope: str, item: str, noted: Callable[[str], Any]) -> Claim | None:
        return patient(lambda: self.claims.take(scope, item), noted=noted)

    def _held(self, scope: str, noted: Callable[[str], Any]) -> dict[str, Claim]:
        """{item: its living claim}."""
        found = patient(lambda: self.claims.live(scope), noted=noted)
        return {own.item: own for own in found}


def _waiting(items: Sequence[str], held: Sequence[Claim]) -> str:
    """What is waited for: "waiting for other workers, who are at the last 2 (node-7:4711:...)"."""
    workers = and_more(sorted({own.worker for own in held}), most=3)
    return f"waiting for other workers, who are at the last {len(items)} ({workers})"
