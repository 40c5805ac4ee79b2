"""What is in a folder of `score_tables.py`? `Table`: thousands of scored skip-lists of one model.

    table = read_table(Path("runs/table-tiny-flux"))
    table.choices, table.fresh            # (n, groups), (n, prompts)
    world = table.world                   # what the arms of `search_arms.py` may know

Files. `world.json` has the groups with their gains, the lists made by hand, the layer sensitivities
by estimator, the noise floor and the machine. `rows*.jsonl` has one skip-list a line: its choice,
its kind, LPIPS of the search prompts and of the fresh ones, and the relative errors of the final
latents of both, in that order.

Fresh prompts at even places are for fitting, those at odd places for judging what was fitted.
Nothing here needs the model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scored_rows import rows_in
from search_arms import World

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Group

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scored skip-lists of one model; see the module.

    Attributes:
        model: the study's name.
        world: groups, gains, layer sensitivities.
        choices: (n, groups) options.
        kinds: (n,) how each list came about: "all nvfp4", "rule of thumb", "random", "ceiling", ...
        search: (n, S) LPIPS of the search prompts.
        fresh: (n, P) LPIPS of fresh prompts.
        latent: (n, S + P) errors of the final latents; (n, 0) where they are not known.
        floor: LPIPS of bf16 from itself.
        machine: where it was made.
    """

    model: str
    world: World
    choices: NDArray[np.int64]
    kinds: tuple[str, ...]
    search: Array
    fresh: Array
    latent: Array
    floor: float
    machine: Mapping[str, str]

    @property
    def fitting(self) -> Array:
        """(n, P / 2) LPIPS of the prompts that damages are fitted to."""
        return self.fresh[:, ::2]

    @property
    def judging(self) -> Array:
        """(n, P / 2) LPIPS of the other prompts."""
        return self.fresh[:, 1::2]


def read_table(folder: Path) -> Table:
    """The table of a folder; of equal choices the first counts."""
    described = json.loads((folder / "world.json").read_text())
    rows: dict[tuple[int, ...], dict[str, Any]] = {}
    for row in rows_in(folder, "rows"):
        rows.setdefault(tuple(row["choice"]), row)
    kept = list(rows.values())
    world = world_from(described)

    def column(name: str) -> Array:
        return np.array([row[name] for row in kept], dtype=np.float64).reshape(len(kept), -1)

    return Table(
        model=described["model"],
        world=world,
        choices=np.array(list(rows), dtype=np.int64).reshape(
            len(kept), len(world.candidates.groups)
        ),
        kinds=tuple(row["kind"] for row in kept),
        search=column("search"),
        fresh=column("fresh"),
        latent=column("latent"),
        floor=described["floor"],
        machine=described["machine"],
    )


def described_world(world: World) -> dict[str, Any]:
    """The world as `world.json` has it."""
    candidates = world.candidates
    return {
        "formats": list(map(str, candidates.formats)),
        "groups": [
            {"name": g.name, "fqns": g.fqns, "members": g.members, "gains_s": g.gains_s}
            for g in candidates.groups
        ],
        "bf16_s": candidates.bf16_s,
        "rule_of_thumb": candidates.rule_of_thumb,
        "published": candidates.published,
        "errors": {
            name: [[g, o, error] for (g, o), error in errors.items()]
            for name, errors in world.errors.items()
        },
        "bytes_saved": [[g, o, saved] for (g, o), saved in world.bytes_saved.items()],
    }


def world_from(described: Mapping[str, Any]) -> World:
    """The inverse of `described_world`. Where the host is the limit, it is left out."""
    groups = tuple(
        Group(
            name=g["name"],
            fqns=tuple(g["fqns"]),
            members=tuple(map(tuple, g["members"])),
            gains_s=tuple(g["gains_s"]),
        )
        for g in described["groups"]
    )
    candidates = Candidates(
        formats=tuple(FormatName(name) for name in described["formats"]),
        groups=groups,
        fixed={},
        refused={},
        fqns=tuple(fqn for group in groups for fqn in group.fqns),
        rule_of_thumb=tuple(described["rule_of_thumb"]),
        bf16_s=described["bf16_s"],
        published=tuple((label, tuple(choice)) for label, choice in described["published"]),
    )
    published = next((candidates.canonical(choice) for _, choice in candidates.published), None)
    return World(
        candidates,
        {
            name: {(g, o): error for g, o, error in rows}
            for name, rows in described["errors"].items()
        },
        {(g, o): saved for g, o, saved in described["bytes_saved"]},
        published,
    )
