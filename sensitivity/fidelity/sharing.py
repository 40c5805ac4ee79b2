"""How is work divided that several workers of one search need done once? `Sharing`.

Work is a list of items that all workers name alike: batches of bf16's pictures, blocks of a
calibration, skip-lists to verify. Each worker asks for the whole list, and comes back when all of
it is done, by whichever worker.

    sharing: Sharing = Alone()
    sharing.run("references", ["0", "1"], is_done=lambda item: path(item).exists(), do=draw)

What a caller may rely on, and must see to:

- An item is claimed before it is done. The claim of a worker that dies ends, and another one does
  the item. So `do` can be asked for an item that is done already, and must then end at once.
- `is_done` asks where all workers can look (a folder, a database), often: it is fast.
- An item that is not done after `do`, since its result could not be kept, is done by each worker
  for itself. Nobody waits for it for ever.
- What `do` raises is raised by `run`; the item is free again.

`Alone` is one worker by itself. Workers that share a database have `search.shared_work`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Sharing(Protocol):
    """Divides items among workers."""

    def run(
        self,
        scope: str,
        items: Sequence[str],
        *,
        is_done: Callable[[str], bool],
        do: Callable[[str], None],
        wait_s: float = 0.5,
        noted: Callable[[str], Any] = ...,
    ) -> None:
        """Come back when all items are done.

        Args:
            scope: names the list for all workers, in at most 200 characters.
            items: at most 200 characters each.
            is_done: whether the result of an item is there, whoever made it.
            do: makes it.
            wait_s: seconds between two looks at items that others do.
            noted: called with a text where there is something to say, such as a dead worker.
        """


class Alone:
    """One worker that does everything itself, in order."""

    def run(
        self,
        scope: str,  # noqa: ARG002 - nobody else asks for it
        items: Sequence[str],
        *,
        is_done: Callable[[str], bool],
        do: Callable[[str], None],
        wait_s: float = 0.5,  # noqa: ARG002 - there is nobody to wait for
        noted: Callable[[str], Any] = lambda _text: None,  # noqa: ARG002
    ) -> None:
        """Do each item that is not done."""
        for item in items:
            if not is_done(item):
                do(item)
