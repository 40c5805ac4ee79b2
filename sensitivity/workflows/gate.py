"""What does a gate ask of a recipe, and what did it find? `Gate`, `Drawing`, `Drawn`, `Checked`.

    gate = Gate(constraints=Constraints(max_lpips=0.15, max_memory_bytes=24 * 10**9))
    check_gate(gate)                    # UserError for a bound that makes no sense
    checked.decision, checked.to_json()
    with_gate(checked).save("checked.json")                 # the recipe with a record of this

`check` makes a `Checked`. Its JSON says what was asked, what was decided, on which weights, by
which versions, and when.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.errors import UserError
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.formats.execution import Execution
from sensitivity.recipes.gate_record import layers_digest
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.front import Constraints, check_constraints
from sensitivity.workflows.criteria import Criterion, Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a recipe must keep to.

    Attributes:
        constraints: bounds on pictures, on the speedup and on peak memory; `max_seconds` is not
            looked at.
    """

    constraints: Constraints = field(default_factory=Constraints)

    @property
    def bounds_pictures(self) -> bool:
        """Whether any bound is on pictures."""
        asked = self.constraints
        return asked.bounds_damage or bool(asked.max_judge or asked.min_judge)

    @property
    def bounds_run(self) -> bool:
        """Whether any bound is on what a run takes."""
        asked = self.constraints
        return asked.min_speedup is not None or asked.max_memory_bytes is not None

    def to_json(self) -> dict[str, Any]:
        """The bounds that are set."""
        asked = self.constraints
        bounds = {
            "max_lpips": asked.max_lpips,
            "max_typical": asked.max_typical,
            "max_flips": asked.max_flips,
            "min_speedup": asked.min_speedup,
            "max_judge": dict(asked.max_judge) or None,
            "min_judge": dict(asked.min_judge) or None,
            "max_memory_bytes": asked.max_memory_bytes,
        }
        return {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The pictures of a gate, compared.

    Attributes:
        score: the recipe's, on the held-out prompts.
        other: the other recipe's; None where there is none.
        rules: how scores are summarized.
        execution: what drew the pictures.
        weights_sha256: what identifies the model's weights (`models.weights_hash`).
    """

    score: Score
    other: Score | None
    rules: SummaryRules
    execution: Execution
    weights_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a gate found.

    Attributes:
        recipe: what was checked.
        model: the study.
        gate: the bounds.
        criteria: one for each bound.
        drawn: the pictures; None where none were asked for.
        against: the other recipe; None where there is none.
        environment: versions and machine.
        date: the day, in UTC, as YYYY-MM-DD.
    """

    recipe: Recipe
    model: str
    gate: Gate
    criteria: tuple[Criterion, ...]
    drawn: Drawn | None = None
    against: Recipe | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def decision(self) -> Decision:
        """FAILS where any criterion does, else UNDECIDED where any is, else PASSES."""
        found = {criterion.decision for criterion in self.criteria}
        worst = (Decision.FAILS, Decision.UNDECIDED)
        return next((one for one in worst if one in found), Decision.PASSES)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity check`: what was decided, by what, on which weights."""
        drawn, other = self.drawn, None if self.drawn is None else self.drawn.other
        return {
            "recipe": self.recipe.name,
            "against": None if self.against is None else self.against.name,
            "model": self.model,
            "decision": self.decision.value,
            "criteria": [criterion.to_json() for criterion in self.criteria],
            "gate": self.gate.to_json(),
            "net": None if drawn is None else drawn.score.net,
            "per_prompt": None if drawn is None else list(drawn.score.per_prompt),
            "against_per_prompt": None if other is None else list(other.per_prompt),
            "kernels": None if drawn is None else _kernels(drawn, self.recipe),
            "weights_sha256": None if drawn is None else drawn.weights_sha256,
            "date": self.date,
            "environment": dict(self.environment),
        }


def with_gate(checked: Checked) -> Recipe:
    """The recipe with what its gate found, as a record."""
    record = checked.to_json()
    record = {name: record[name] for name in record if name not in ("recipe", "model")}
    data = checked.recipe.model_dump(mode="json")
    digest = layers_digest(checked.recipe.assignment)
    return Recipe.from_mapping(data | {"gate": record | {"layers_sha256": digest}})


def _kernels(drawn: Drawn, recipe: Recipe) -> str:
    return drawn.execution.summary_of(recipe.layers).value


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How a gate draws.

    Attributes:
        device: where torch runs.
        arithmetic: whose quantized numbers are computed; None is that of installed kernels.
        emulate: whether formats are emulated that the device has natively.
        judges: judges that must look.
        objective: what takes the place of LPIPS, as "module:function"; None: nothing.
    """

    device: str
    arithmetic: Arithmetic | None = None
    emulate: bool = False
    judges: tuple[str, ...] = ()
    objective: str | None = None


def check_gate(gate: Gate, *, compares: bool = False) -> None:
    """Raise UserError for a gate without a bound, or with one that makes no sense.

    Args:
        gate: the gate.
        compares: whether a recipe is compared with another.
    """
    check_constraints(gate.constraints)
    if not (gate.bounds_pictures or gate.bounds_run or compares):
        raise UserError(
            "found no bound; expected one at least of `max_lpips`, `max_typical`, `max_flips`,"
            " `min_speedup`, `max_memory_bytes`, `max_judge`, `min_judge` or `against`: set one,"
            " such as `max_lpips` 0.15"
        )
