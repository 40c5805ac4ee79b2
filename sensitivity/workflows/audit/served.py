"""What can a list for a server with names of its own not say? Such a server runs some Linears as
one, never quantizes others, and gives some no name.

    together, unnamed = settled(listed, tree, formats)
    never_quantized(listed, tree)

All of it comes from `consumers.served_names`.
"""

from collections.abc import Collection, Mapping

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.consumers.rules import hit_as_parts
from sensitivity.consumers.served_names import ALWAYS_BF16, served_names


def never_quantized(listed: ServedList, tree: ModelTree) -> frozenset[str]:
    """The Linears that the consumer always runs in bf16."""
    served = served_names(listed.served, tree)
    return frozenset(fqn for fqn, name in served.items() if name is ALWAYS_BF16)


def settled(
    listed: ServedList, tree: ModelTree, formats: Mapping[str, ListedFormat]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """What a list of this consumer cannot say of these formats.

    Args:
        listed: a list in the consumer's form.
        tree: the model.
        formats: {FQN: format} that the list should give.

    Returns:
        The quantized Linears that stay in bf16 as well, since the consumer runs them as one with
        bf16 ones, or entries for these hit them; and the bf16 Linears that it quantizes all the
        same, since no list can name them.
    """
    served = served_names(listed.served, tree)
    names = {
        fqn: (tree.component_of(fqn), name)
        for fqn, name in served.items()
        if name is not ALWAYS_BF16
    }
    kept = {names[fqn] for fqn in names if not formats[fqn].is_quantized}
    also, more = frozenset[str](), True
    while more:
        together = {fqn for fqn, name in names.items() if name[1] and (name in kept or fqn in also)}
        found = _also_hit(listed, tree, together)
        more = not found <= also
        also |= found
        kept |= {names[fqn] for fqn in also if fqn in names}
    unnamed = tuple(
        fqn for fqn, (_, name) in names.items() if not name and not formats[fqn].is_quantized
    )
    return frozenset(fqn for fqn in together if formats[fqn].is_quantized), unnamed


def _also_hit(listed: ServedList, tree: ModelTree, fqns: Collection[str]) -> frozenset[str]:
    """What entries with the names of these Linears hit, where they match parts of names."""
    if not listed.own_only:
        return frozenset()
    names, kept = listed.names(tree), frozenset(fqns)
    entries = [name for name, own in names.items() if name and not kept.isdisjoint(own)]
    return frozenset[str]().union(*(names[name] for name in hit_as_parts(entries, names)))
