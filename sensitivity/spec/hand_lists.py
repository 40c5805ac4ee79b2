"""The skip-lists that people have today, as a study states them: the rule of thumb, and published
lists with their source. Sections of a study TOML.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of a study; unknown keys are refused, since a misspelt key would silently
    change a study. NaN and inf are no settings.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class Reasoned(Section):
    """A glob on FQNs and why it stands there."""

    pattern: str
    reason: str


class RuleOfThumb(Section):
    """The skip-list that people write by hand, as a baseline: min(M, K, N) below `min_dim` at the
    priced scale, and these globs.
    """

    min_dim: int = 1024
    skip: tuple[Reasoned, ...] = (
        Reasoned(pattern="*embed*", reason="embeddings"),
        Reasoned(pattern="*norm*", reason="norms and modulation"),
        Reasoned(pattern="proj_out", reason="the final projection"),
    )


class PublishedList(Section):
    """A skip-list that somebody published:

    `skip` holds globs on FQNs, and Linears with K or N below `min_width` (at the priced scale) are
    skipped too.
    """

    name: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    min_width: Annotated[int, Field(ge=0)] = 0
    skip: tuple[str, ...] = ()
