"""What does an audit give? `Audit`: findings, prices, and the list without its faults.

audit.failed("error")                    # whether there are errors
fixed_text(audit)                        # the fixed list as globs with reasons
fixed_recipe(audit).save("fixed.json")   # the same as an unverified recipe
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.latency import ShapeScale
from sensitivity.latency.pricer import PricedList
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.workflows.audit.findings import Finding, Severity
from sensitivity.workflows.audit.fixing import Fixed, plain_list
from sensitivity.workflows.audit.reading import Source
from sensitivity.workflows.audit.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found.

    Attributes:
        source: the list.
        subject: the list on the model.
        findings: the worst first.
        priced: the price of the list, of the fixed list if it differs, and of the bounds.
        fixed: the list without its faults.
        calibrated: how many Linears have a known sensitivity.
    """

    source: Source
    subject: Subject
    findings: tuple[Finding, ...]
    priced: tuple[PricedList, ...]
    fixed: Fixed
    calibrated: int

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def failed(self, on: str) -> bool:
        """Whether there are findings that count as a failure.

        Args:
            on: "error" counts errors, "warning" errors and warnings, any other word nothing.
        """
        counted = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING)}
        return any(finding.severity in counted.get(on, ()) for finding in self.findings)

    @property
    def fixed_price(self) -> PricedList:
        """The price of the list without its faults."""
        return self.priced[1] if self.fixed.formats != self.subject.formats else self.priced[0]

    @property
    def scale(self) -> ShapeScale | None:
        """The scale that is priced, if the model stands for a larger one."""
        return self.priced[0].estimate.scale

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity audit`. Seconds are predicted, of one pipeline run."""
        subject, first = self.subject, self.priced[0].estimate
        scale = {} if self.scale is None else {"scale": dataclasses.asdict(self.scale)}
        return {
            "model": subject.model.spec.name,
            "list": self.source.name,
            "form": self.source.form,
            "form_guessed": self.source.guessed,
            "format": subject.format.value,
            "min_width": subject.listed.min_width,
            "target": first.target,
            "source": first.source,
            "batch_size": first.batch_size,
            **scale,
            "settings": dict(subject.model.run.table.settings),
            "entries": len(subject.listed.entries),
            "linears": len(subject.formats),
            "quantized": len(subject.quantized),
            "calibrated": self.calibrated,
            "notes": list(subject.listed.notes),
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "findings": [finding.to_json() for finding in self.findings],
            "latency": [_price_json(row) for row in self.priced],
            "fixed": {"changes": list(self.fixed.changes), "skip": sorted(self.fixed.causes)},
        }


def _price_json(row: PricedList) -> dict[str, Any]:
    estimate = row.estimate
    data = {
        "name": row.name,
        "quantized_linears": row.quantized,
        "bf16_s": estimate.bf16_s,
        "quantized_s": estimate.quantized_s,
        "speedup": estimate.speedup,
    }
    return data | ({"speedup_interval90": list(estimate.interval90)} if estimate.interval90 else {})


def fixed_text(audit: Audit) -> str:
    """The list without its faults, as globs with reasons.

    Raises:
        PatternError: it has several formats.
    """
    return plain_list(
        audit.fixed,
        audit.subject,
        name=audit.source.name,
        speedup=audit.fixed_price.estimate.speedup,
    )


def fixed_recipe(audit: Audit) -> Recipe:
    """The list without its faults, as an unverified recipe."""
    model = audit.subject.model
    stem = re.sub(r"[^\w.-]+", "-", Path(audit.source.name).stem) or "list"
    notice = (
        f"{audit.source.name}, read as {audit.source.form} and fixed by `sensitivity audit`:"
        f" {'; '.join(audit.fixed.changes) or 'nothing changed'}"
    )
    return priced_recipe(
        audit.fixed_price, model.run, model.spec, name=f"{stem}-fixed"[:256], notice=notice
    )
