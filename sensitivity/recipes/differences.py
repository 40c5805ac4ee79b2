"""What do two recipes of one model differ in? The records that `recipes.diff` fills.

    diff.changes[0].role, diff.changes[0].blocks       # "transformer_blocks.ff.net.2", "0-5, 11"
    diff.to_json()                                     # as `sensitivity diff` writes it

Conventions. A is the first recipe and B the second. `saved_s` is A's seconds minus B's: positive if
B is faster.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.core.record_tables import RecordTable
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Linears of one role that have the format `a` in A and `b` in B.

    `blocks` are their blocks in words; `saved_s` is None if nothing was priced.
    """

    role: str
    blocks: str
    fqns: tuple[str, ...]
    a: FormatName
    b: FormatName
    saved_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """One of `changes` in the JSON of a diff."""
        return {
            "role": self.role,
            "blocks": self.blocks,
            "linears": len(self.fqns),
            "a": self.a,
            "b": self.b,
            "saved_s": self.saved_s,
            "fqns": list(self.fqns),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedPair:
    """Seconds of a run in bf16 and with each recipe, all from the same pricer."""

    bf16_s: float
    a_s: float
    b_s: float
    source: str
    target: str
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Side(ShortRepr):
    """One of the two recipes.

    `place` is (rank, members): its rank by seconds on the front of its search, and how many members
    that front has. None if it has no front.
    """

    recipe: Recipe
    place: tuple[int, int] | None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def counts(self) -> str:
        """How many Linears have each format: "48 bf16, 456 nvfp4"."""
        counts = Counter(self.recipe.layers.values())
        return ", ".join(f"{counts[name]} {name}" for name in FormatName if counts[name])

    @property
    def steps(self) -> str:
        """Which steps run at higher precision: "every step quantized" where none does."""
        policy = self.recipe.step_policy
        return self.recipe.assignment.policy.words if policy is None else policy.words

    @property
    def latency_text(self) -> str:
        """The seconds in the recipe's file, in words."""
        latency = self.recipe.latency
        return (
            f"{latency.quantized_s:.4g} s ({latency.speedup:.3f}x, {latency.origin} for"
            f" {latency.target}, batch {latency.batch_size})"
        )

    def to_json(self) -> dict[str, Any]:
        """`a` or `b` in the JSON of a diff."""
        recipe = self.recipe
        lpips = None
        if recipe.fidelity is not None:
            score = recipe.fidelity.lpips
            lpips = {
                "mean": score.stated_mean,
                "ci95": list(score.ci95),
                "typical": score.typical,
                "typical_ci95": score.typical_ci95 and list(score.typical_ci95),
                "flips": score.flips and score.flips.count,
                "net": score.net,
            }
        front = None
        if self.place is not None:
            front = {"rank": self.place[0], "members": self.place[1]}
        return {
            "name": recipe.name,
            "unverified": recipe.is_unverified,
            "notice": recipe.notice,
            "quantized_linears": len(recipe.layers) - len(recipe.skip),
            "step_policy": recipe.step_policy and recipe.step_policy.model_dump(mode="json"),
            "latency": recipe.latency.model_dump(mode="json"),
            "lpips": lpips,
            "front": front,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDiff:
    """What two recipes differ in.

    Attributes:
        a, b: the recipes.
        changes: groups of Linears with other formats, the most seconds first; () if there are none.
        priced: seconds; None if nothing was priced.
        unpriced: why nothing was priced; "" if it was.
        incomparable: why the two LPIPS cannot be compared; () if they can.
        lpips_ratio: (ratio, low, high) of B's typical LPIPS over A's, with a 95 % interval over
            prompts; None if they cannot be compared, or if A's pictures are bf16's.
        notes: what else a reader should know.
    """

    a: Side
    b: Side
    changes: tuple[Change, ...]
    priced: PricedPair | None
    unpriced: str
    incomparable: tuple[str, ...]
    lpips_ratio: tuple[float, float, float] | None
    notes: tuple[str, ...]

    @property
    def steps_differ(self) -> bool:
        """Whether their step policies differ."""
        return self.a.recipe.assignment.policy != self.b.recipe.assignment.policy

    def __repr__(self) -> str:
        return f"RecipeDiff({self._words})"

    @property
    def _words(self) -> str:
        count = sum(len(change.fqns) for change in self.changes)
        words = [f"{count} Linear{'' if count == 1 else 's'} differ{'s' if count == 1 else ''}"]
        if self.steps_differ:
            words.append("steps differ")
        if self.priced is not None:
            words.append(f"b saves {(self.priced.a_s - self.priced.b_s) * 1e3:.3g} ms a run")
        if self.lpips_ratio is not None:
            ratio, low, high = self.lpips_ratio
            words.append(f"LPIPS b / a {ratio:.2f} [{low:.2f}, {high:.2f}]")
        return f"a {self.a.name}, b {self.b.name}: {', '.join(words)}"

    def _repr_html_(self) -> str:
        return self._table.to_html()

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each change: role, blocks, how many Linears, their
        format in A and in B, and the milliseconds of a run that B saves.

        Raises:
            UserError: pandas is not installed.
        """
        return self._table.to_pandas()

    @property
    def _table(self) -> RecordTable:
        rows = [
            (
                own.role,
                own.blocks,
                len(own.fqns),
                own.a.value,
                own.b.value,
                None if own.saved_s is None else own.saved_s * 1e3,
            )
            for own in self.changes
        ]
        columns = ("role", "blocks", "Linears", "a", "b", "saved_ms")
        return RecordTable(title=self._words, columns=columns, rows=tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """The JSON that `sensitivity diff` writes."""
        ratio = None
        if self.lpips_ratio is not None:
            value, low, high = self.lpips_ratio
            ratio = {"ratio": value, "ci95": [low, high]}
        return {
            "identical": not self.changes and not self.steps_differ,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "steps_differ": self.steps_differ,
            "changes": [change.to_json() for change in self.changes],
            "latency": None if self.priced is None else asdict(self.priced),
            "unpriced": self.unpriced or None,
            "incomparable": list(self.incomparable),
            "lpips_ratio": ratio,
            "notes": list(self.notes),
        }
