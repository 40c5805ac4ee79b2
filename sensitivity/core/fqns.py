"""What does the name of a Linear say? Its block, its stack, its role and its component.

    block_of("blocks.3.attn.to_q")                                # "blocks.3"
    role_of("blocks.3.attn.to_q")                                 # "blocks.attn.to_q"
    within("transformer_2.blocks.3.ff", ["transformer_2"])        # "blocks.3.ff"

Conventions. An FQN is the dotted name of a module. Where several components are searched together,
every FQN begins with the component's name and a dot.

The first index in a name is that of a block. A later index is that of a block inside it if it
counts a list of blocks (`BLOCK_LISTS`), as in UNets: the role of
`down_blocks.1.attentions.0.proj_in` is `down_blocks.attentions.proj_in`. All other indices
(`to_out.0`, `net.2`) belong to the role.

Only names are read, never modules.
"""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

BLOCK_LISTS = re.compile(r"(\w*_)?(blocks|attentions|resnets|motion_modules)")
"""Names that diffusers gives to lists of blocks inside of blocks.

A list inside of a list counts blocks too, whatever its name.
"""

_Value = TypeVar("_Value")


def block_of(fqn: str) -> str:
    """The innermost block that a Linear is in: its FQN up to and with the block's index; "" if it
    is in none.

    `transformer_blocks.3.attn.to_q` -> `transformer_blocks.3`; `x_embedder` -> "".
    """
    parts = fqn.split(".")
    places = _block_places(parts)
    return ".".join(parts[: places[-1] + 1]) if places else ""


def stack_of(block: str) -> str:
    """The lists that a block is in: its name without indices.

    `transformer_blocks.3` -> `transformer_blocks`; `down_blocks.1.attentions.0` ->
    `down_blocks.attentions`.
    """
    return ".".join(part for part in block.split(".") if not _is_index(part))


def list_of(block: str) -> str:
    """The innermost list that a block is in.

    `transformer_blocks.3` and `mid_block.attentions.0.transformer_blocks.3` ->
    `transformer_blocks`: lists of the same name are taken to hold blocks of the same class.
    """
    return stack_of(block).rpartition(".")[2]


def indices_of(block: str) -> tuple[int, ...]:
    """The indices in a block's name, outermost first: `down_blocks.1.attentions.0` -> (1, 0)."""
    return tuple(int(part) for part in block.split(".") if _is_index(part))


def role_of(fqn: str) -> str:
    """What a Linear does, the same in every block of a stack: its FQN without the blocks' indices.

    `transformer_blocks.3.attn.to_out.0` -> `transformer_blocks.attn.to_out.0`. An FQN that is only
    an index stays as it is.
    """
    parts = fqn.split(".")
    if len(parts) == 1:
        return fqn
    places = _block_places(parts)
    return ".".join(part for i, part in enumerate(parts) if i not in places)


def _block_places(parts: list[str]) -> list[int]:
    """The positions in `parts` of the indices of blocks."""
    places: list[int] = []
    for i, part in enumerate(parts):
        if not _is_index(part):
            continue
        follows_index = places[-1:] == [i - 1]
        counts_blocks = follows_index or BLOCK_LISTS.fullmatch(parts[i - 1]) is not None
        is_last = i + 1 == len(parts)
        if not places or (counts_blocks and not is_last):
            places.append(i)
    return places


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit()


def is_in(fqn: str, component: str) -> bool:
    """Whether a Linear is in this component; every Linear is in "", which is the only component."""
    return not component or fqn.startswith(f"{component}.")


def within(fqn: str, components: Collection[str]) -> str:
    """A Linear's name inside its component: its FQN without the component's name.

    The FQN itself if it does not begin with one of `components`.
    """
    first, _, rest = fqn.partition(".")
    return rest if rest and first in components else fqn


def by_component(
    values: Mapping[str, _Value], components: Collection[str]
) -> dict[str, dict[str, _Value]]:
    """Split {FQN: value} into {component: {name inside it: value}}.

    {"": values} if `components` is empty: names do not begin with a component's then.
    """
    if not components:
        return {"": dict(values)}
    return {
        name: {within(fqn, (name,)): value for fqn, value in values.items() if is_in(fqn, name)}
        for name in components
    }
