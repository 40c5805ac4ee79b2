"""Which names of a model can an entry hit at all? `Names`: what a rule sees, with indices.

    names = Names({"blocks.0.to_q": {"blocks.0.to_q"}})
    names.by_last_part["to_q"]          # ["blocks.0.to_q"]

A list of thousands of entries is matched with a model of thousands of names. Most entries can hit
few of them, which an index finds without a pass over all.

It knows no rule (`consumers.rules`).
"""

from collections.abc import Collection, Iterator
from functools import cached_property


class Names(dict[str, set[str]]):
    """{name that a rule sees: the FQNs that it stands for}, with indices for entries that cannot
    hit most names. `hits` takes any collection; with many entries this one is many times faster.
    """

    @cached_property
    def by_last_part(self) -> dict[str, list[str]]:
        """{what follows the last dot: the names that end so}."""
        found: dict[str, list[str]] = {}
        for name in self:
            found.setdefault(name.rpartition(".")[2], []).append(name)
        return found

    @cached_property
    def by_suffix(self) -> dict[str, set[str]]:
        """{end of a part: the parts that end so}."""
        found: dict[str, set[str]] = {}
        for part in {part for name in self for part in name.split(".")}:
            for start in range(len(part)):
                found.setdefault(part[start:], set()).add(part)
        return found

    def with_run_behind(self, text: str) -> Collection[str]:
        """The names with this text in front of a dot or at the end, and maybe some more.

        All parts of the text but the first are whole parts of such a name.
        """
        _, dot, whole = text.partition(".")
        if dot:
            return self.by_run.get(whole, [])
        return [name for part in self.by_suffix.get(text, ()) for name in self.by_run[part]]

    @cached_property
    def by_run(self) -> dict[str, list[str]]:
        """{run of whole parts: the names that have it}."""
        found: dict[str, list[str]] = {}
        for name in self:
            for run in dict.fromkeys(runs(name)):
                found.setdefault(run, []).append(name)
        return found


def runs(name: str) -> Iterator[str]:
    """Every run of whole parts of a name: `a`, `a.b` and `b` of `a.b`."""
    parts = name.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])
