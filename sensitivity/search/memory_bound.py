"""Can any choice of a search keep to a bound on GPU memory? Asked before anything is drawn.

    memory = choice_memory(priced, candidates)                          # for `Candidates.memory`
    check_memory_fits(candidates, 24_000_000_000, model="flux1-dev")    # ConstraintError: none can

Where no skip-list fits, that is said before anything is drawn, with the least peak that there is.
Peaks are predicted (`latency.memory`), at the scale that the study is priced at.

What it does not do: steer proposals. A bound chooses among what a search has scored, so the trials
of a study are the same whatever is asked of its winner.
"""

from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.core.words import gigabytes
from sensitivity.errors import ConstraintError
from sensitivity.formats.registry import get_format
from sensitivity.latency.memory import estimate_memory
from sensitivity.search.candidates import Candidates
from sensitivity.search.choice_memory import ChoiceMemory, unknown_memory
from sensitivity.shapes.table import ShapeTable


def choice_memory(table: ShapeTable, candidates: Candidates) -> ChoiceMemory | None:
    """The memory of a search's choices.

    Args:
        table: shapes of the run at the scale that is priced, with its counts (`table.run`).
        candidates: what can be chosen.

    Returns:
        None where the run was not counted, so that no peak is known.
    """

    def weight_bytes(name: FormatName, k: int, n: int) -> int:
        return get_format(name).weight_bytes(k=k, n=n)

    peak = estimate_memory(table, {}, weight_bytes).bf16_peak_bytes
    if peak is None:
        return None
    shapes = {linear.fqn: (linear.k, linear.n) for linear in table.linears}

    def saved(fqn: str, option: int) -> int:
        k, n = shapes[fqn]
        return 2 * k * n - weight_bytes(candidates.formats[option], k, n)

    return ChoiceMemory(
        bf16_peak_bytes=peak,
        saved_bytes=tuple(
            tuple(sum(saved(fqn, o) for fqn in own) for o, own in enumerate(group.members))
            for group in candidates.groups
        ),
        copy_bytes=tuple(
            tuple(sum(2 * shapes[fqn][0] * shapes[fqn][1] for fqn in own) for own in group.members)
            for group in candidates.groups
        ),
    )


def check_memory_fits(candidates: Candidates | None, most_bytes: int, *, model: str) -> None:
    """Raise where no choice of a search can keep to a bound on memory, before anything is drawn.

    Args:
        candidates: what can be chosen; None where the model does not run without weights.
        most_bytes: the bound.
        model: its name, for the message.

    Raises:
        ConstraintError: the least peak of any choice is larger.
        UserError: the peak of a run is not known.
    """
    if candidates is None or (memory := candidates.memory) is None:
        raise unknown_memory(model)
    copies = all(_keeps_copies(policy) for policy in candidates.policies)
    least = memory.least_bytes(keeps_copies=copies)
    if least <= most_bytes:
        return
    beside, instead = "", "search a smaller `format`, batch or resolution"
    if copies:
        beside = "; bf16 weights for the edge steps stay beside the quantized ones"
        instead = "search with `edge_steps` a16, which needs no second copy"
    raise ConstraintError(
        f"no skip-list of {model} fits: the least peak memory of any is {gigabytes(least)} and bf16"
        f" alone takes {gigabytes(memory.bf16_peak_bytes)} (predicted, without what CUDA itself"
        f" takes{beside}); expected one that takes at most {gigabytes(most_bytes)}: raise"
        f" `max_memory_bytes`, or {instead}"
    )


def _keeps_copies(policy: StepPolicy) -> bool:
    """Whether bf16 weights stay beside the quantized ones for its edge steps."""
    return not policy.is_plain and policy.mode is EdgeMode.BF16
