"""An audit says whether a run of a list keeps to a bound on memory."""

from typing import Any

import pytest

from sensitivity.errors import UserError
from sensitivity.latency.memory import MISSING_BYTES
from sensitivity.workflows.audit.findings import Kind, Severity

from support.audits import audited, of


def test_a_peak_is_an_error_a_warning_or_a_note(models: Any) -> None:
    """Above the bound it is an error, at the bound a warning, since a prediction lacks some GB, and
    from there on a note; every message has both values, and an error what helps.
    """
    model = models("tiny-flux")
    priced = audited(model, "proj_out", form="fqn").priced[0].estimate.memory
    assert priced is not None
    peak = priced.quantized_peak_bytes
    assert peak is not None
    for most, severity, sign in (
        (peak - 10**6, Severity.ERROR, ">"),
        (peak, Severity.WARNING, "<="),
        (peak + MISSING_BYTES - 1, Severity.WARNING, "<="),
        (peak + MISSING_BYTES, Severity.NOTE, "<="),
    ):
        (found,) = of(audited(model, "proj_out", form="fqn", max_memory_bytes=most), Kind.MEMORY)
        assert found.severity is severity
        assert f"peak memory {peak / 1e9:.5g} GB {sign} {most / 1e9:.5g} GB" in found.message
        assert "predicted" in found.message
        assert ("raise `max_memory_bytes`" in found.message) == (severity is Severity.ERROR)


def test_a_list_that_quantizes_more_keeps_to_it(models: Any) -> None:
    """The bound lies between the peaks of two lists: one is an error, the other is not."""
    model = models("tiny-flux")
    many, few = "proj_out", "transformer_blocks\nproj_out"
    peaks = []
    for text in (many, few):
        memory = audited(model, text).priced[0].estimate.memory
        assert memory is not None
        peaks.append(memory.quantized_peak_bytes or 0)
    assert peaks[0] < peaks[1]
    most = sum(peaks) // 2
    found = [of(audited(model, text, max_memory_bytes=most), Kind.MEMORY) for text in (many, few)]
    assert [one.severity for (one,) in found] == [Severity.WARNING, Severity.ERROR]


def test_without_a_bound_nothing_is_said(models: Any) -> None:
    """And one that makes no sense is refused."""
    model = models("tiny-flux")
    assert of(audited(model, "proj_out", form="fqn"), Kind.MEMORY) == []
    with pytest.raises(UserError, match="`max_memory_bytes` is 0; expected bytes above 0"):
        audited(model, "proj_out", form="fqn", max_memory_bytes=0)
