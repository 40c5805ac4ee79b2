"""How does a workflow tell its caller which step it is at? By a `Say`."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Called with one line at the start of each step."""


def silent(_text: str) -> None:
    """A `Say` that says nothing."""
