"""What does an entry that hits nothing mean, read with another name of the same Linears?

    found = Interpreter(subject).read(entry)
    found.fqns, found.whose            # ({"transformer_blocks.0.attn.to_q", ...}, "diffusers'")

A Linear has several names: diffusers', those of the original checkpoint (which ComfyUI matches),
and the run-time names of vLLM-Omni and of SGLang. People copy lists from one tool to the next, with
a prefix in front (`transformer.`, `model.diffusion_model.`) or `.weight` behind. So a dead entry is
matched again, by its own rule, with each of these names. If it names a module that holds Linears,
all of them are meant. Where only whole names count, people also write parts of names, as the
tools' own guides do: `img_mlp` for `transformer_blocks.*.img_mlp.*`, `attention.to_` for all that
begins so. An entry that keeps Linears in bf16 is read so at last.

What is found is surely meant: hints say it, and `fixing` keeps it. Names that are only alike, and
other rules, are never taken (`dead` hints at them).
"""

import dataclasses
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from sensitivity.consumers.lists import Entry
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.consumers.seen_names import Names
from sensitivity.consumers.served_names import CONSUMERS, served_names
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError
from sensitivity.workflows.audit.meanings import REGEXES, SUBSTRINGS, found_by
from sensitivity.workflows.audit.renames import in_todays_names
from sensitivity.workflows.audit.subject import Subject

PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "model.",
    "module.",
)
"""What tools write in front of the names inside a denoiser."""

WHOLE_NAMES = ("fqn", "glob", "fnmatch", "star", "weight-key", "target", "prefix", "path")
"""Rules whose entries begin with a name, so that a prefix can be taken from them."""

STARRED = ("glob", "fnmatch", "star")
"""Rules that match whole names in which a star is any run of characters."""

WHOSE = {"comfyui": "the original checkpoint's", "vllm-omni": "vLLM-Omni's", "sglang": "SGLang's"}
"""{consumer with names of its own: whose names these are, in words}."""
DIFFUSERS = "diffusers'"

_PLAIN = re.compile(r"(?=[\d.]*[A-Za-z_])[\w.-]+")
"""A text that can be a part of names: no pattern, and not a number alone."""


class Understood(NamedTuple):
    """What a dead entry means.

    Attributes:
        fqns: the Linears that it names.
        whose: whose names they are, such as "diffusers'"; "" if they are the consumer's own.
        holds: whether it names a module that holds them.
        part: whether it is a part of their names.
    """

    fqns: frozenset[str]
    whose: str
    holds: bool = False
    part: bool = False


class Interpreter:
    """Reads dead entries of one list on one model."""

    def __init__(self, subject: Subject) -> None:
        self._tree, self._listed, self._own = subject.model.tree, subject.listed, subject.names

    def read(self, entry: Entry) -> Understood | None:
        """What an entry means; None if no other name fits it."""
        texts = tuple(self._texts(entry))
        for whose, names in self._systems:
            for text in texts if whose else texts[1:]:
                if found := self._hits(text, entry, names):
                    return Understood(found, whose)
        for text in texts:
            for today in in_todays_names(text, self._tree):
                if found := self._hits(today, entry, self._inside):
                    return Understood(found, WHOSE["comfyui"])
        for whose, names in self._systems:
            for text in texts:
                if found := self._held(text, entry, whose, names):
                    return Understood(found, whose, holds=True)
        for whose, names in self._systems:
            for text in texts:
                if found := self._with_part(text, entry, names):
                    return Understood(found, whose, part=True)
        return None

    @cached_property
    def _inside(self) -> Names:
        """diffusers' names inside the component."""
        names = Names()
        for fqn in self._tree.fqns:
            names.setdefault(self._tree.inside(fqn), set()).add(fqn)
        return names

    @cached_property
    def _systems(self) -> tuple[tuple[str, Names], ...]:
        """(whose names these are, the names); the consumer's own come first, under ""."""
        found = [("", Names(self._own))]
        own = self._listed.served if isinstance(self._listed, ServedList) else ""
        if own:
            found.append((DIFFUSERS, self._inside))
        others = [consumer for consumer in CONSUMERS if consumer != own]
        found += [(WHOSE[consumer], self._names_in(consumer)) for consumer in others]
        return tuple((whose, names) for whose, names in found if names)

    def _names_in(self, consumer: str) -> Names:
        """The names that a consumer gives the model's Linears; none if it does not know it."""
        try:
            served = served_names(consumer, self._tree)
        except PatternError:
            return Names()
        names = Names()
        for fqn, name in served.items():
            if name:
                names.setdefault(name, set()).add(fqn)
        return names

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*PREFIXES, *(f"{name}." for name in self._tree.classes)]))

    def _texts(self, entry: Entry) -> Iterator[str]:
        """The entry as it is, then without what stands around the name."""
        yield entry.text
        if entry.rule not in WHOLE_NAMES:
            return
        bare = entry.text.removesuffix(".weight")
        for prefix in self._prefixes:
            if bare.startswith(prefix):
                yield bare.removeprefix(prefix)
        if bare != entry.text:
            yield bare

    def _hits(self, text: str, entry: Entry, names: Names) -> frozenset[str]:
        """What an entry of this text hits among names."""
        if not text:
            return frozenset()
        read = dataclasses.replace(entry, text=text)
        return found_by(self._listed, read, self._tree, names)

    def _held(self, text: str, entry: Entry, whose: str, names: Names) -> frozenset[str]:
        """The Linears in the module that an entry names, if its rule matches whole names."""
        if entry.rule in STARRED:
            return self._hits(f"{text}.*", entry, names)
        if entry.rule not in ("fqn", "weight-key", "target") or text.startswith("re:"):
            return frozenset()
        ordered = self._ordered.setdefault(whose, sorted(names))
        start, found = f"{text}.", set[str]()
        for name in ordered[bisect_left(ordered, start) :]:
            if not name.startswith(start):
                break
            found |= names[name]
        return self._of_component(found, entry)

    def _with_part(self, text: str, entry: Entry, names: Names) -> frozenset[str]:
        """The Linears in whose names a text stands between dots, or begins a part if it ends in _.

        Only entries that keep Linears in bf16 by whole names or whole parts are read so.
        """
        if entry.format is not FormatName.BF16 or entry.rule in (*SUBSTRINGS, *REGEXES):
            return frozenset()
        run = text.strip(".")
        if not _PLAIN.fullmatch(run):
            return frozenset()
        hit = names.by_run.get(run, [])
        if run.endswith("_"):
            hit = [name for name in names if f".{run}" in f".{name}"]
        return self._of_component(set[str]().union(*(names[name] for name in hit)), entry)

    @cached_property
    def _ordered(self) -> dict[str, list[str]]:
        """{whose names: the names in order}."""
        return {}

    def _of_component(self, fqns: set[str], entry: Entry) -> frozenset[str]:
        """Those in the part of the list that the entry is in."""
        if not entry.component or not self._tree.classes:
            return frozenset(fqns)
        part_of = self._listed.part_of
        return frozenset(fqn for fqn in fqns if part_of(fqn, self._tree) == entry.component)
