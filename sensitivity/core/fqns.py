"""What does a Linear's name say?

Its block, its stack, its role, and the component that it is of where several are searched together.

    block_of("transformer_blocks.3.attn.to_q")                                         # "transformer_blocks.3"
    role_of("transformer_blocks.3.attn.to_q")                                          # "transformer_blocks.attn.to_q"
    role_of("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")              # "down_blocks.attentions.transformer_blocks.attn1.to_q"
    within("transformer_2.blocks.3.attn1.to_q", ("transformer", "transformer_2"))      # "blocks.3.attn1.to_q"

Conventions. An FQN is the dotted name of a module. Where several components are searched, FQNs
begin with the component's name and a dot. The first index in a name is that of a block; a later one
is, too, where it counts a list of blocks inside of a block, as UNets have them (`BLOCK_LISTS`).
Other indices (`to_out.0`, `net.2`) belong to the role.
"""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

BLOCK_LISTS = re.compile(r"(\w*_)?(blocks|attentions|resnets|motion_modules)")
"""Lists of blocks inside of blocks, by diffusers' names; lists of lists count as well."""

_Value = TypeVar("_Value")


def block_of(fqn: str) -> str:
    """Name the repeated block that a Linear sits in, the innermost one: its FQN up to and including
    the block's index, or "" if it is in none.

    `transformer_blocks.3.attn.to_q` -> `transformer_blocks.3`; `x_embedder` -> "".
    """
    parts = fqn.split(".")
    places = _block_places(parts)
    return ".".join(parts[: places[-1] + 1]) if places else ""


def stack_of(block: str) -> str:
    """Name the lists that count a block: its name without indices.

    `transformer_blocks.3` -> `transformer_blocks`; `down_blocks.1.attentions.0` ->
    `down_blocks.attentions`.
    """
    return ".".join(part for part in block.split(".") if not _is_index(part))


def list_of(block: str) -> str:
    """Name the innermost list that counts a block.

    Blocks of lists that are called alike are taken for blocks of one class.

    `transformer_blocks.3` and `mid_block.attentions.0.transformer_blocks.3` ->
    `transformer_blocks`.
    """
    return stack_of(block).rpartition(".")[2]


def indices_of(block: str) -> tuple[int, ...]:
    """The numbers in a block's name, the outermost first:

    `down_blocks.1.attentions.0` -> (1, 0).
    """
    return tuple(int(part) for part in block.split(".") if _is_index(part))


def role_of(fqn: str) -> str:
    """Name what a Linear does, the same in every block of a stack: its FQN without the indices of
    blocks. Other indices are kept.

    `transformer_blocks.3.attn.to_out.0` -> `transformer_blocks.attn.to_out.0`. An FQN that is
    nothing but an index stays as it is.
    """
    parts = fqn.split(".")
    places = _block_places(parts)
    return (
        fqn
        if len(parts) == 1
        else ".".join(part for i, part in enumerate(parts) if i not in places)
    )


def _block_places(parts: list[str]) -> list[int]:
    """Where the indices of blocks stand."""
    places: list[int] = []
    for i, part in enumerate(parts):
        if not _is_index(part):
            continue
        inner = i + 1 < len(parts) and (
            places[-1:] == [i - 1] or BLOCK_LISTS.fullmatch(parts[i - 1]) is not None
        )
        if not places or inner:
            places.append(i)
    return places


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit()


def is_in(fqn: str, component: str) -> bool:
    """Whether a Linear is of this component; "" is the only one there is."""
    return not component or fqn.startswith(f"{component}.")


def within(fqn: str, components: Collection[str]) -> str:
    """A Linear's name inside its component; the same where `components` is empty, since there is
    one and names do not begin with it.
    """
    first, _, rest = fqn.partition(".")
    return rest if rest and first in components else fqn


def by_component(
    values: Mapping[str, _Value], components: Collection[str]
) -> dict[str, dict[str, _Value]]:
    """{component:

    {name inside it: value}} of {FQN: value}; {"": values} where `components` is empty.
    """
    if not components:
        return {"": dict(values)}
    return {
        name: {within(fqn, (name,)): value for fqn, value in values.items() if is_in(fqn, name)}
        for name in components
    }
