"""What is a Linear called where it is served? diffusers' names -> the names that vLLM-Omni, SGLang
diffusion and ComfyUI match lists with.

    served_name("vllm-omni", "WanTransformer3DModel", "blocks.3.attn1.to_q")
    # "blocks.3.attn1.to_qkv": q, k and v are one Linear there
    served_name("comfyui", "FluxTransformer2DModel", "transformer_blocks.3.ff.net.2")
    # "double_blocks.3.img_mlp.2"

These tools do not run diffusers' modules. They have their own classes under the same names. Those
fuse some Linears and rename others. Some Linears they always run in bf16 (`ALWAYS_BF16`), because
they build them without a quantization config: no list can quantize them. Some have no run-time name
(`NAMELESS`): no list can tell them apart.

Tables. `name_tables/` has one TOML file a consumer, with the version that it was read from, and in
it one table a class of diffusers' denoisers:

    renamed       [pattern on diffusers' name, run-time name] of Linears that are called otherwise
    same_name     patterns of Linears that keep diffusers' name
    always_bf16   patterns of Linears that are never quantized
    nameless      patterns of Linears without a run-time name

A pattern matches the whole name inside the component: `#` is a block's number, `*` any run of
characters, `(a|b)` a choice, `?` makes the character or group before it optional. In run-time
names, `\\1` is what the first bracket or `#` matched. Patterns of one class do not overlap.

A Linear or a class that no table has is reported as unknown; its name is never guessed.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from sensitivity.consumers.lists import ModelTree
from sensitivity.errors import PatternError

ALWAYS_BF16 = None
"""In place of the name of a Linear that the consumer never quantizes."""

NAMELESS = ""
"""The name of a Linear that has none at run time."""

CONSUMERS = ("vllm-omni", "sglang", "comfyui")
"""The consumers that have a table."""

_FOLDER = Path(__file__).parent / "name_tables"
_SAME = r"\g<0>"


class NameTable(BaseModel):
    """The run-time names of one class; the module's docstring has the meaning of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: tuple[tuple[str, str], ...] = ()
    same_name: tuple[str, ...] = ()
    always_bf16: tuple[str, ...] = ()
    nameless: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[re.Pattern[str], str | None]]:
        """(compiled pattern, template of the run-time name) of every pattern."""
        for pattern, name in self.renamed:
            yield _compile(pattern), name
        for patterns, target in (
            (self.same_name, _SAME),
            (self.always_bf16, ALWAYS_BF16),
            (self.nameless, NAMELESS),
        ):
            for pattern in patterns:
                yield _compile(pattern), target


class _Found(NamedTuple):
    """The run-time name of a Linear that a table has, which may be ALWAYS_BF16 or NAMELESS."""

    name: str | None


@cache
def name_tables(consumer: str) -> Mapping[str, NameTable]:
    """{class of the denoiser: its table}, of a consumer of `CONSUMERS`.

    A class may have a second table for models with image attention, under its name and those words.
    """
    text = (_FOLDER / f"{consumer}.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, NameTable]).validate_python(tomllib.loads(text))


def known_classes(consumer: str) -> tuple[str, ...]:
    """The classes of denoisers whose names in `consumer` are known."""
    return tuple(name for name in name_tables(consumer) if " " not in name)


def served_name(consumer: str, kind: str, fqn: str) -> str | None:
    """The run-time name of one Linear.

    ALWAYS_BF16 (None) where the consumer never quantizes it, NAMELESS ("") where it has no name.

    Args:
        consumer: one of `CONSUMERS`.
        kind: the denoiser's class in diffusers, or another key of `name_tables(consumer)`.
        fqn: the name inside the component.

    Raises:
        PatternError: no table has the class, or the Linear.
    """
    if found := _look_up(consumer, kind, fqn):
        return found.name
    raise PatternError(
        f"found the Linear {fqn} of {kind}, whose name in {consumer} is not known; expected a"
        " Linear of one of its published models; name one of these"
    )


def served_names(consumer: str, tree: ModelTree) -> dict[str, str | None]:
    """{FQN: run-time name} of every Linear of a model, as `served_name` gives it.

    A Linear that its class's table does not have keeps diffusers' name.

    Raises:
        PatternError: no table has the class of a component.
    """
    found = {
        fqn: _look_up(consumer, kind, tree.inside(fqn))
        for fqn, kind in _tables_of(consumer, tree).items()
    }
    return {fqn: name.name if name else tree.inside(fqn) for fqn, name in found.items()}


def unknown_linears(consumer: str, tree: ModelTree) -> list[str]:
    """The Linears that the tables of their classes do not have.

    Raises:
        PatternError: no table has the class of a component.
    """
    return [
        fqn
        for fqn, kind in _tables_of(consumer, tree).items()
        if not _look_up(consumer, kind, tree.inside(fqn))
    ]


@lru_cache(maxsize=2**15)
def _look_up(consumer: str, kind: str, fqn: str) -> _Found | None:
    """The run-time name of a Linear; None where the table of its class does not have it."""
    if kind not in name_tables(consumer):
        raise PatternError(
            f"found a denoiser of {kind or 'no class'}, whose names in {consumer} are not known;"
            f" expected one of {', '.join(known_classes(consumer))}; use a form with diffusers'"
            " names"
        )
    for pattern, target in _compiled_rows(consumer, kind):
        if found := pattern.fullmatch(fqn):
            return _Found(None if target is None else found.expand(target))
    return None


def _tables_of(consumer: str, tree: ModelTree) -> dict[str, str]:
    """{FQN: the key of its table}: the class of its component, or the table for image attention
    where the component has it.
    """
    with_images = {tree.component_of(fqn) for fqn in tree.fqns if fqn.endswith(".add_k_proj")}
    tables = {}
    for fqn in tree.fqns:
        component = tree.component_of(fqn)
        kind = tree.classes.get(component, "")
        variant = f"{kind} with image attention"
        has_variant = component in with_images and variant in name_tables(consumer)
        tables[fqn] = variant if has_variant else kind
    return tables


@lru_cache(maxsize=64)
def _compiled_rows(consumer: str, kind: str) -> tuple[tuple[re.Pattern[str], str | None], ...]:
    return tuple(name_tables(consumer)[kind].rows())


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(".", r"\.").replace("*", ".*").replace("#", r"(\d+)"))
