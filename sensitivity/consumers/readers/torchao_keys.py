"""Which keys of an `FqnToConfig` fit a name, and which modules contain Linears.

    matcher = KeyMatcher({"re:.*to_q": FormatName.MXFP8}, ["blocks.0.to_q"])
    matcher.module_key("blocks.0.to_q")          # "re:.*to_q"
    containers(["blocks.0.to_q"])                # ["", "blocks", "blocks.0"]

torchao's and diffusers' readers share it: both look keys up in this way, in different orders.
"""

from collections.abc import Iterable, Mapping

from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.rules import hits


class KeyMatcher:
    """Looks up the keys of an `FqnToConfig` by name.

    Attributes:
        keys: {key: format}, in their order.
        fitting: {name: the `re:` keys that fullmatch it, in their order}.
    """

    def __init__(self, keys: Mapping[str, ListedFormat], names: Iterable[str]) -> None:
        self.keys, universe = keys, frozenset(names)
        self.fitting: dict[str, list[str]] = {}
        for key in keys:
            if key.startswith("re:"):
                for name in hits("regex-full", key.removeprefix("re:"), universe):
                    self.fitting.setdefault(name, []).append(key)

    def module_key(self, name: str) -> str | None:
        """The key that decides by a module's own name: the exact one, else the first `re:` key.

        None if there is neither.
        """
        return name if name in self.keys else next(iter(self.fitting.get(name, ())), None)


def containers(names: Iterable[str]) -> list[str]:
    """The modules that contain Linears, the model itself ("") included."""
    paths: dict[str, None] = {"": None}
    for name in names:
        parts = name.split(".")
        paths |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts)))
    return list(paths)
