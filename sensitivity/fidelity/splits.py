"""Which prompts does a split have, with which seeds, and how many are generated together?

A study has two splits: "search" prompts choose between skip-lists, and "held_out" prompts are what
a recipe reports.

Conventions. Every prompt has a seed of its own. Search prompts come in the study's order (`order`
in `[search]`), `chunk` at a time; held-out prompts come as written, `batch_size` at a time. Which
pictures share a batch is part of a score, since nvfp4 has one scale for a whole batch.

    texts, seeds = prompts_of(spec, "search")
    batch_size_of(spec, "search"), interim_looks_of(spec, "search")
"""

from collections.abc import Sequence
from typing import Literal

from sensitivity.spec.study_spec import StudySpec

Split = Literal["search", "held_out"]


def prompts_of(spec: StudySpec, split: Split) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The prompts of a split and their seeds, in the order in which they are generated."""
    section = spec.prompts
    if split == "held_out":
        texts, first = section.held_out, section.held_out_seed
        order: Sequence[int] = range(len(texts))
    else:
        texts, first = section.search, section.seed
        order = spec.search.order or range(len(texts))
    return tuple(texts[i] for i in order), tuple(first + i for i in order)


def batch_size_of(spec: StudySpec, split: Split) -> int:
    """The most pictures that are generated together: a chunk of the search prompts, or a batch."""
    section = spec.search
    if split == "search" and section.chunk is not None:
        return section.chunk
    return section.batch_size


def interim_looks_of(spec: StudySpec, split: Split) -> int:
    """How often a score may be stopped before its end: after each chunk but the last."""
    return (len(prompts_of(spec, split)[0]) - 1) // batch_size_of(spec, split)
