"""Which Linears read the same input and are fused by servers: q, k and v, or gate and up?

Servers compute such Linears as one, so they change format together. A study lists the names that
are fused (`search.fused`), and the shapes tell which Linears of these names really read one input.

    fused = (("to_q", "to_k", "to_v"),)
    fused_role("blocks.attn.to_q", fused)       # "blocks.attn.to_q+to_k+to_v"
    fused_families(table.linears, fused)        # ((to_q, to_k, to_v of block 0), (to_out,), ...)
"""

from collections.abc import Iterable, Sequence

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
