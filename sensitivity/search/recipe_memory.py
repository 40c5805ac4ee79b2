"""What does a recipe say of its memory, and of the steps that need more of it?

    weights_record(evaluator, formats)       # `memory`: bytes of weights
    peaks_record(candidates, chosen)         # `memory`: peaks of a run
    policy_record(candidates, chosen)        # `step_policy`, None for a plain one

Edge steps in bf16 need the bf16 weights beside the quantized ones: `beside_bytes` are part of
`quantized_bytes`. All bytes are predicted; nothing is run.
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.recipes.parts import beside_bytes, weight_bytes
from sensitivity.recipes.step_policy_record import StepPolicyRecord
from sensitivity.search.candidates import Candidates
from sensitivity.search.trials import ScoredTrial


def weights_record(evaluator: Evaluator, formats: Mapping[str, FormatName]) -> dict[str, Any]:
    """Bytes of the denoisers' weights; `formats` may have a step policy."""
    denoiser = evaluator.loaded.denoiser
    bf16_bytes, quantized_bytes = weight_bytes(denoiser, formats)
    shapes = {fqn: denoiser.get_parameter(f"{fqn}.weight").shape for fqn in formats}
    return {
        "bf16_bytes": bf16_bytes,
        "quantized_bytes": quantized_bytes,
        "beside_bytes": beside_bytes(formats, {fqn: (k, n) for fqn, (n, k) in shapes.items()}),
        "source": "predicted",
    }


def peaks_record(candidates: Candidates, chosen: ScoredTrial) -> dict[str, Any]:
    """Peaks of a run; {} where they are not known."""
    if candidates.memory is None:
        return {}
    return {
        "peak_bytes": candidates.memory_bytes(chosen.choice),
        "bf16_peak_bytes": candidates.memory.bf16_peak_bytes,
        "peak_source": "predicted",
    }


def policy_record(candidates: Candidates, trial: ScoredTrial) -> dict[str, Any] | None:
    """A trial's step policy; None where every step runs as its skip-list says."""
    assignment = candidates.decode(trial.choice)
    if candidates.steps is None:
        return None
    found = StepPolicyRecord.of(assignment, steps=candidates.steps)
    return None if found is None else found.model_dump(mode="json")
