"""How many graphs will regional compilation make, and how is a choice kept within torch's limit?

Regional compilation makes one graph for each distinct pattern of formats of a block class, and
torch stops at its recompile limit (8 by default). A choice of groups that are finer than depth
bands can have a different pattern in every block. `BlockPatterns.reduce` gives each stack of blocks
at most `limit` patterns.

Method. At a price of a second, a pattern costs a block damage - price * gain. Blocks are clustered
by these costs: each cluster takes the pattern that costs it least, and each block moves to the
cluster whose pattern costs it least, until nothing changes. This is k-modes (Huang 1998,
"Extensions to the k-means algorithm for clustering large data sets with categorical values") with
costs instead of distances. The price is bisected until enough is saved.

    patterns = BlockPatterns(candidates, limit=8)
    patterns.count(choice)                                  # {"transformer_blocks": 5, ...}
    choice = patterns.reduce(damage, gains, allowed, wanted_gain)

Conventions. Lists of blocks with one name are one stack, also in two denoisers: torch counts by
class. Groups outside blocks are chosen by price alone.

`reduce` is a heuristic without a bound. Where every stack is within the limit, `search.knapsack`
solves the problem exactly instead.
"""

import numpy as np
from numpy.typing import NDArray

from sensitivity.core.fqns import block_of, list_of, stack_of
from sensitivity.search.candidates import Candidates, Choice

Array = NDArray[np.float64]
Options = NDArray[np.int64]
RECOMPILE_LIMIT = 8
"""Graphs of one block class that torch compiles: torch._dynamo.config.recompile_limit."""
ROUNDS, BISECTIONS = 8, 14


class BlockPatterns:
    """The stacks of a model's groups.

    Args:
        candidates: groups; all groups of a list of blocks share its depth bands.
        limit: distinct patterns that a stack may have.

    Attributes:
        stacks: {stack: (bands, roles) index of the group of each band and role, -1 for none}.
    """

    def __init__(self, candidates: Candidates, *, limit: int = RECOMPILE_LIMIT) -> None:
        self.limit = limit
        self.stacks: dict[str, Options] = {}
        bands: dict[str, dict[tuple[str, ...], dict[str, int]]] = {}
        for index, group in enumerate(candidates.groups):
            blocks = tuple(dict.fromkeys(block_of(fqn) for fqn in group.fqns))
            if blocks[0]:
                role = group.name.partition("[")[0].removeprefix(f"{stack_of(blocks[0])}.")
                bands.setdefault(list_of(blocks[0]), {}).setdefault(blocks, {})[role] = index
        for stack, rows in bands.items():
            roles = list(dict.fromkeys(role for row in rows.values() for role in row))
            self.stacks[stack] = np.array(
                [[row.get(role, -1) for role in roles] for row in rows.values()]
            )

    @property
    def binding(self) -> bool:
        """Whether a choice can have more patterns than the limit."""
        return any(len(stack) > self.limit for stack in self.stacks.values())

    def count(self, choice: Choice) -> dict[str, int]:
        """{stack: distinct patterns}; a role that a band does not have counts as bf16."""
        padded = np.array([*choice, 0])
        return {name: len(np.unique(padded[stack], axis=0)) for name, stack in self.stacks.items()}

    def fits(self, choice: Choice) -> bool:
        """Whether every stack is within the limit."""
        return not self.binding or all(count <= self.limit for count in self.count(choice).values())

    def reduce(
        self, damage: Array, gains: Array, allowed: NDArray[np.bool_], wanted_gain: float
    ) -> Options:
        """Options within the limit that save at least `wanted_gain` seconds, at little damage.

        Where none are found that save that much, they save as much as was found possible.

        Args:
            damage: (groups, options), at least 0.
            gains: (groups, options) seconds saved.
            allowed: (groups, options) which options may be taken.
            wanted_gain: seconds.

        Returns:
            (groups,) options.
        """
        rows = np.arange(len(gains))
        unit = float(np.abs(gains).max()) or 1.0
        scale = float(damage.max()) or 1.0
        low, high = -4.0, 4.0  # the price is ten to this power
        best = self._at_price(damage / scale, gains / unit, allowed, 10.0**high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            found = self._at_price(damage / scale, gains / unit, allowed, 10.0**middle)
            if gains[rows, found].sum() >= wanted_gain:
                best, high = found, middle
            else:
                low = middle
        return best

    def _at_price(
        self, damage: Array, gains: Array, allowed: NDArray[np.bool_], price: float
    ) -> Options:
        """(groups,) options of least damage - price * gain, within the limit."""
        costs = np.where(allowed, damage - price * gains, np.inf)
        choice = np.asarray(costs.argmin(1), dtype=np.int64)
        none = np.full((1, costs.shape[1]), np.inf)
        none[0, 0] = 0.0
        padded = np.concatenate([costs, none])  # the last row: a role that a band does not have
        for stack in self.stacks.values():
            if len(stack) <= self.limit:
                continue
            own = padded[stack].argmin(2)
            if len(np.unique(own, axis=0)) > self.limit:
                own = self._clustered(np.minimum(padded[stack], 1e9), own)
            choice[stack[stack >= 0]] = own[stack >= 0]
        return choice

    def _clustered(self, costs: Array, own: Options) -> Options:
        """(bands, roles) the pattern of each band, at most `limit` distinct ones.

        Args:
            costs: (bands, roles, options).
            own: (bands, roles) each band's best pattern.
        """
        bands, roles = own.shape
        column = np.arange(roles)

        def price_of(pattern: Options) -> Array:  # (bands,)
            return np.asarray(costs[:, column, pattern].sum(1))

        patterns, times = np.unique(own, axis=0, return_counts=True)
        centres = [patterns[int(times.argmax())]]
        while len(centres) < self.limit:  # the band that loses most gets its own pattern
            nearest = np.min([price_of(centre) for centre in centres], axis=0)
            regret = nearest - _price_of_own(costs, own)
            centres.append(own[int(regret.argmax())])
        members = np.zeros(bands, dtype=np.int64)
        for _ in range(ROUNDS):
            members = np.argmin([price_of(centre) for centre in centres], axis=0)
            new = [
                costs[members == i].sum(0).argmin(1) if (members == i).any() else centre
                for i, centre in enumerate(centres)
            ]
            if all(np.array_equal(a, b) for a, b in zip(new, centres, strict=True)):
                break
            centres = new
        return np.asarray(
            np.stack(centres)[np.argmin([price_of(centre) for centre in centres], axis=0)],
            dtype=np.int64,
        )


def _price_of_own(costs: Array, own: Options) -> Array:
    """(bands,) the cost of each band's own pattern."""
    return np.asarray(np.take_along_axis(costs, own[:, :, None], axis=2)[:, :, 0].sum(1))
