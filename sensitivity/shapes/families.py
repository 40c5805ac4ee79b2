"""Which Linears read the same input and are fused by servers: q, k and v, or gate and up?

Servers compute such Linears as one, so they change format together. A study lists the names that
are fused (`search.fused`), and the shapes tell which Linears of these names really read one input.

    fused = (("to_q", "to_k", "to_v"),)
    fused_role("blocks.attn.to_q", fused)       # "blocks.attn.to_q+to_k+to_v"
    fused_families(table.linears, fused)        # ((to_q, to_k, to_v of block 0), (to_out,), ...)
"""

from collections.abc import Collection, Iterable, Sequence

from sensitivity.shapes.table import LinearProfile


def fused_families(
    linears: Iterable[LinearProfile], fused: Sequence[Sequence[str]]
) -> tuple[tuple[LinearProfile, ...], ...]:
    """Group Linears that servers run as one; every Linear is in exactly one group.

    A group is of one block and one family of `fused`, with one M and one K, since it reads one
    input. So q of a cross attention, whose k and v read the text, is alone.

    Args:
        linears: of a run.
        fused: families of roles, such as ("to_q", "to_k", "to_v").
    """
    found: dict[tuple[str, str, int, int], list[LinearProfile]] = {}
    for linear in linears:
        family = (linear.block, fused_role(linear.role, fused), linear.m, linear.k)
        found.setdefault(family, []).append(linear)
    return tuple(map(tuple, found.values()))


def role_of_family(family: Sequence[LinearProfile], fused: Sequence[Sequence[str]]) -> str:
    """The name of a group: its roles joined by "+", what they begin with written once.

    `attn2.to_k` and `attn2.to_v` -> `attn2.to_k+to_v`.
    """
    roles = list(dict.fromkeys(linear.role for linear in family))
    whole = fused_role(roles[0], fused)
    if len(roles) == whole.count("+") + 1:
        return whole
    stem = roles[0][: roles[0].rfind(".") + 1]
    if all(role.startswith(stem) for role in roles):
        return stem + "+".join(role.removeprefix(stem) for role in roles)
    return "+".join(roles)


def fused_role(role: str, fused: Sequence[Sequence[str]]) -> str:
    """The role of a Linear, with the roles that are fused with it under one name.

    `attn.to_q` -> `attn.to_q+to_k+to_v`. The first family that has the role counts.
    """
    for family in fused:
        for member in family:
            if role == member or role.endswith(f".{member}"):
                stem = role.removesuffix(member)
                parent = member.rpartition(".")[0]
                shared = parent and all(other.rpartition(".")[0] == parent for other in family)
                common = f"{parent}." if shared else ""
                return f"{stem}{common}{'+'.join(other.removeprefix(common) for other in family)}"
    return role


KNOWN = (
    ("to_q", "to_k", "to_v"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("w1", "w3"),
    ("gate_proj", "up_proj"),
    ("linear_1", "linear_3"),
    ("gate", "up"),
    ("w_gate", "w_up"),
    ("gate_layer", "proj"),
)
"""Families that are known by name: q, k and v; the two halves of a gated MLP."""
_QKV = (("q", "k", "v"), ("query", "key", "value"))


def families_in(fqns: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """The families of last parts of names that occur in a model.

    They are those of `KNOWN`, and whatever three names in one module differ in one word only, which
    is q, k or v: `to_query`, `to_key` and `to_value`; `to_q_t`, `to_k_t` and `to_v_t`.
    """
    children: dict[str, dict[str, None]] = {}
    for fqn in fqns:
        parent, _, name = fqn.rpartition(".")
        children.setdefault(parent, {})[name] = None
    known = tuple(
        family for family in KNOWN if any(own.keys() >= set(family) for own in children.values())
    )
    named = {member for family in known for member in family}
    found = dict.fromkeys(
        family
        for own in children.values()
        for name in own
        for family in _alike(name)
        if own.keys() >= set(family) and named.isdisjoint(family)
    )
    return known + tuple(found)


def _alike(name: str) -> Iterable[tuple[str, str, str]]:
    """The families that a name with a word for q belongs to."""
    words = name.split("_")
    for q, k, v in _QKV:
        for place, word in enumerate(words):
            if word == q:
                before, after = words[:place], words[place + 1 :]
                first, second, third = ("_".join([*before, other, *after]) for other in (q, k, v))
                yield first, second, third
