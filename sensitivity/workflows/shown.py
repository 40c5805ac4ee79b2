"""How do the results of a search look at a Python prompt, in a notebook, and in pandas?

    outcome                 # SearchOutcome(trial 3: 33 of 88 Linears quantized, 1.377x ...)
    outcome.to_pandas()     # a row for each skip-list that was tried

Skip-lists are in the order of their seconds, the fastest first, as on the screen. LPIPS of the
search prompts is what all trials together estimate; that of held-out prompts is the list's own.
Peak memory is the predicted one of a whole run, without what CUDA itself takes. A step policy is
named by its key, such as first2-last1-bf16.
"""

from collections.abc import Collection, Mapping, Sequence

from sensitivity.core.format_name import quantized
from sensitivity.core.record_tables import RecordTable
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.search.candidates import Candidates
from sensitivity.search.trials import ScoredTrial

COLUMNS = (
    "skip-list",
    "chosen",
    "on_front",
    "quantized",
    "ms",
    "speedup",
    "typical_lpips",
    "mean_lpips",
    "held_out_typical_lpips",
    "held_out_mean_lpips",
    "held_out_flips",
    "peak_memory_gb",
    "step_policy",
)


def tried_table(
    trials: Sequence[ScoredTrial],
    candidates: Candidates,
    rules: SummaryRules,
    held_out: Mapping[int, Score],
    *,
    front: Collection[int],
    chosen: int | None,
) -> RecordTable:
    """A row for each skip-list that has a score.

    Args:
        trials: those of the search, baselines included.
        candidates: what they choose from.
        rules: how scores are summarized.
        held_out: {trial index: score on held-out prompts}.
        front: the indices of the members of the front.
        chosen: the index of the one that was named.
    """
    rows = []
    for trial in sorted(trials, key=lambda own: (own.latency_s, own.typical)):
        held = held_out.get(trial.index)
        said = None if held is None else rules.summarize(held)
        rows.append(
            (
                trial.name,
                trial.index == chosen,
                trial.index in front,
                len(quantized(candidates.decode(trial.choice))),
                trial.latency_s * 1e3,
                candidates.bf16_s / trial.latency_s,
                trial.typical,
                trial.mean,
                None if said is None else said.typical,
                None if said is None else said.mean,
                None if said is None else len(said.flips),
                None if trial.memory_bytes is None else trial.memory_bytes / 1e9,
                trial.policy.key or None,
            )
        )
    return RecordTable(columns=COLUMNS, rows=tuple(rows))


def of_interest(table: RecordTable) -> RecordTable:
    """The rows of the front, and those that were verified."""
    front, held = COLUMNS.index("on_front"), COLUMNS.index("held_out_typical_lpips")
    rows = tuple(row for row in table.rows if row[front] or row[held] is not None)
    return RecordTable(columns=table.columns, rows=rows, title=table.title)
