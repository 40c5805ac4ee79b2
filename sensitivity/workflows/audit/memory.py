"""Does a run of a list keep to a bound on GPU memory?

    list(keeps_to_memory(subject, 24_000_000_000))     # one finding

The peak is predicted (`latency.memory`), and what CUDA itself takes comes on top. So a peak above
the bound is an error, since the run surely needs that much. One below it by less than a prediction
may lack is a warning: the run may need more than is there. One below it by more is a note.
"""

from collections.abc import Iterator

from sensitivity.core.words import gigabytes
from sensitivity.latency.memory import MISSING_BYTES
from sensitivity.search.choice_memory import unknown_memory
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.host import estimate_of
from sensitivity.workflows.audit.subject import Subject


def keeps_to_memory(subject: Subject, most_bytes: int | None) -> Iterator[Finding]:
    """The predicted peak beside the bound; nothing without a bound.

    Raises:
        UserError: the run was not counted, so that no peak is known.
    """
    if most_bytes is None:
        return
    if not subject.is_priced:
        yield Finding(
            kind=Kind.MEMORY,
            severity=Severity.WARNING,
            message=(
                f"whether a run keeps to {gigabytes(most_bytes)} is not known, since the bytes of"
                f" {', '.join(subject.other_formats)[:200]} are not: audit it in a format of this"
                " tool"
            ),
        )
        return
    peak, bf16 = _peaks(subject)
    asked, found = gigabytes(most_bytes), gigabytes(peak)
    if peak > most_bytes:
        severity, text = Severity.ERROR, f"peak memory {found} > {asked}"
    elif peak + MISSING_BYTES > most_bytes:
        severity = Severity.WARNING
        text = f"peak memory {found} <= {asked}, by less than a prediction may lack"
    else:
        severity, text = Severity.NOTE, f"peak memory {found} <= {asked}"
    advice = {
        Severity.ERROR: ": quantize more, draw smaller or fewer pictures together, or raise"
        " `max_memory_bytes`",
        Severity.WARNING: ": measure it with `sensitivity check` where the GPU is",
    }.get(severity, "")
    yield Finding(
        kind=Kind.MEMORY,
        severity=severity,
        message=(
            f"{text} (bf16 {gigabytes(bf16)}; predicted with all components loaded, and up to"
            f" {gigabytes(MISSING_BYTES)} more may be CUDA's own){advice}"
        ),
    )


def _peaks(subject: Subject) -> tuple[int, int]:
    """Of the list and of bf16. Raises UserError where they are not known."""
    memory = estimate_of(subject).memory
    if memory is None or memory.quantized_peak_bytes is None or memory.bf16_peak_bytes is None:
        raise unknown_memory(subject.model.spec.name)
    return memory.quantized_peak_bytes, memory.bf16_peak_bytes
