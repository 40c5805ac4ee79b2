"""Which Linears read the same input and are fused by servers: q, k and v, or gate and up?"""

from collections.abc import Iterable, Sequence

from sensitivity.shapes.table import LinearProfile


def fused_families(
    linears: Iterable[LinearProfile], fused: Sequence[Sequence[str]]
) -> tuple[tuple[LinearProfile, ...], ...]:
    """Every Linear once, with those that servers run as one with it: of one block and one family of
    `fused`, reading one input, which shows in M and K.

    So q of a cross attention, whose k and v read the text, stands alone.
    """
    found: dict[tuple[str, str, int, int], list[LinearProfile]] = {}
    for linear in linears:
        found.setdefault(
            (linear.block, fused_role(linear.role, fused), linear.m, linear.k), []
        ).append(linear)
    return tuple(map(tuple, found.values()))


def _role_of_family(family: Sequence[LinearProfile], fused: Sequence[Sequence[str]]) -> str:
    """What a family is called: the roles of its Linears, what they begin with once:

    `attn2.to_k+to_v`.
    """
    roles = list(dict.fromkeys(linear.role for linear in family))
    whole = fused_role(roles[0], fused)
    if len(roles) == whole.count("+") + 1:
        return whole
    stem = roles[0][: roles[0].rfind(".") + 1]
    return (
        stem + "+".join(role.removeprefix(stem) for role in roles)
        if all(role.startswith(stem) for role in roles)
        else "+".join(roles)
    )


def fused_role(role: str, fused: Sequence[Sequence[str]]) -> str:
    """The role, with fused siblings under one name:

    `attn.to_q` -> `attn.to_q+to_k+to_v`. The first family that has it counts.
    """
    for family in fused:
        for member in family:
            if role == member or role.endswith(f".{member}"):
                stem = role.removesuffix(member)
                parent = member.rpartition(".")[0]
                common = (
                    f"{parent}."
                    if parent and all(other.rpartition(".")[0] == parent for other in family)
                    else ""
                )
                return f"{stem}{common}{'+'.join(other.removeprefix(common) for other in family)}"
    return role
