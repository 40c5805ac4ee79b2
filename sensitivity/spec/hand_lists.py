"""Which skip-lists do people use today? The sections of a study TOML that state them.

    [rule_of_thumb]                      # what is commonly skipped by hand
    min_dim = 1024
    skip = [{ pattern = "*norm*", reason = "norms and modulation" }]

    [[published]]                        # a list that somebody published
    name = "somebody's list"
    source = "https://..."
    skip = ["proj_out"]

A search compares its results with them. `shapes.by_hand` applies them to the Linears of a run.
"""

from typing import Annotated

from pydantic import Field

from sensitivity.spec._base import Section, Width


class Reasoned(Section):
    """A glob on FQNs and the reason that it is there."""

    pattern: str
    reason: str


class RuleOfThumb(Section):
    """The skip-list that people write by hand, which a search tries as a baseline.

    It skips Linears with min(M, K, N) below `min_dim`, at the scale that is priced, and those that
    a glob of `skip` matches.
    """

    min_dim: Width = 1024
    skip: tuple[Reasoned, ...] = (
        Reasoned(pattern="*embed*", reason="embeddings"),
        Reasoned(pattern="*norm*", reason="norms and modulation"),
        Reasoned(pattern="proj_out", reason="the final projection"),
    )


class PublishedList(Section):
    """A skip-list that somebody published.

    It skips what a glob of `skip` matches, and Linears with K or N below `min_width`, at the scale
    that is priced.
    """

    name: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    min_width: Width = 0
    skip: tuple[str, ...] = ()
