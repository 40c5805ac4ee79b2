"""Candidates whose damages add up, and the truth about them."""

import numpy as np

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Group

Damage = dict[tuple[int, int], float]
"""{(group, option): what it does}"""


def world(
    groups: int, options: int = 1, *, seed: int, holes: bool = False
) -> tuple[Candidates, Damage]:
    """Candidates with random gains (some below 0; with `holes` some options missing) and the true
    damage of each (group, option).
    """
    rng = np.random.default_rng(seed)
    made, damage = [], Damage()
    for g in range(groups):
        gains = (0.0, *(rng.lognormal(0, 1, options) - 0.2))
        taken = [True, *(not holes or rng.random() < 0.7 for _ in range(options))]
        members = ((), *((f"blocks.{g}.x",) if ok else () for ok in taken[1:]))
        made.append(
            Group(
                name=f"x[{g}]",
                fqns=(f"blocks.{g}.x",),
                members=members,
                gains_s=tuple(g * ok for g, ok in zip(gains, taken, strict=True)),
            )
        )
        damage |= {
            (g, o): float(rng.lognormal(-4, 1.2)) for o in range(1, options + 1) if members[o]
        }
    formats = (FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4)[: options + 1]
    candidates = Candidates(
        formats=formats,
        groups=tuple(made),
        fixed={},
        refused={},
        fqns=tuple(f"blocks.{g}.x" for g in range(groups)),
        rule_of_thumb=tuple(int(g % 2 == 0) * bool(made[g].members[1]) for g in range(groups)),
        bf16_s=100.0,
    )
    return candidates, damage
