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

from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.format_name import FormatName
from sensitivity.core.record_tables import RecordTable
from sensitivity.errors import PatternError, UserError
from sensitivity.latency import ShapeScale
from sensitivity.latency.pricer import PricedList
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.workflows.audit.findings import Finding, Severity
from sensitivity.workflows.audit.fixing import Fixed, plain_list
from sensitivity.workflows.audit.own_form import own_form
from sensitivity.workflows.audit.policies import EVERY_STEP, AuditedPolicy, audited_policy
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
    def has_fixed_price(self) -> bool:
        """Whether the list without its faults has a price: whether its formats are this tool's."""
        return self.subject.is_priced and self.fixed.is_priced

    @property
    def fixed_price(self) -> PricedList:
        """The price of the list without its faults.

        Raises:
            PatternError: the list is in a format that this tool does not have.
        """
        if not self.has_fixed_price:
            others = self.subject.other_formats or self.subject.listed.other_formats
            raise PatternError(
                f"found a list in the format {', '.join(others)[:200]}, which"
                f" this tool does not have; expected one of {', '.join(FormatName)}: give `fix` a"
                " path that does not end in .json"
            )
        return self.priced[1] if self.fixed.formats != self.subject.formats else self.priced[0]

    @property
    def scale(self) -> ShapeScale | None:
        """The scale that is priced, if the model stands for a larger one."""
        return self.priced[0].estimate.scale

    def __repr__(self) -> str:
        return f"Audit({self._words})"

    @property
    def _words(self) -> str:
        subject, first = self.subject, self.priced[0].estimate
        speed = f"{first.speedup:.3f}x {first.source}" if subject.is_priced else "no price"
        return (
            f"{self.source.name} on {subject.model.spec.name}: {self.count(Severity.ERROR)} errors,"
            f" {self.count(Severity.WARNING)} warnings, {len(subject.quantized)} of"
            f" {len(subject.formats)} Linears quantized, {speed} for {first.target}"
        )

    def _repr_html_(self) -> str:
        return f"{self._findings.to_html()}\n{self._prices.to_html()}"

    def to_pandas(self, part: str = "findings") -> Any:
        """A pandas DataFrame of "findings", with how bad each is, the Linears that it is about and
        the milliseconds of a run that it costs, or of "prices": the list beside others.

        Raises:
            UserError: pandas is not installed, or there is no such part.
        """
        parts = {"findings": self._findings, "prices": self._prices}
        if part not in parts:
            raise UserError(f"`part` is {part!r}; expected findings or prices: choose one of them")
        return parts[part].to_pandas()

    def to_text(self) -> str:
        """The list without its faults: in its own form where its consumer has names of its own,
        else as globs with reasons.

        Raises:
            PatternError: it has several formats, and globs cannot say them.
        """
        return fixed_text(self)

    @property
    def _prices(self) -> RecordTable:
        return RecordTable(
            title=f"a run, {self.priced[0].estimate.source} for {self.priced[0].estimate.target}",
            columns=("list", "quantized", "ms", "speedup"),
            rows=tuple(
                (own.name, own.quantized, own.estimate.quantized_s * 1e3, own.estimate.speedup)
                for own in self.priced
            ),
        )

    @property
    def _findings(self) -> RecordTable:
        rows = [
            (
                own.severity.value,
                own.kind.value,
                own.entry,
                own.line,
                len(own.fqns),
                None if own.cost_s is None else own.cost_s * 1e3,
                own.message,
            )
            for own in self.findings
        ]
        columns = ("severity", "kind", "entry", "line", "Linears", "cost_ms", "message")
        return RecordTable(title=self._words, columns=columns, rows=tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity audit`. Seconds are of one pipeline run."""
        subject, first = self.subject, self.priced[0].estimate
        main = subject.format if subject.is_priced else subject.other_formats[0]
        scale = {} if self.scale is None else {"scale": dataclasses.asdict(self.scale)}
        return {
            "model": subject.model.spec.name,
            "list": self.source.name,
            "form": self.source.form,
            "form_guessed": self.source.guessed,
            "format": main.value,
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
            "step_policy": self._policy_json(),
            "notes": list(self.notes),
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "findings": [finding.to_json() for finding in self.findings],
            "latency": [*self._open_prices(), *(_price_json(row) for row in self.priced)],
            "fixed": {
                "changes": list(self.fixed.changes),
                "given_up": list(self.fixed.given_up),
                "skip": sorted(self.fixed.causes),
            },
        }

    @property
    def policy(self) -> AuditedPolicy | None:
        """The step policy beside the list, on the model; None if it has none."""
        return audited_policy(self.subject)

    @property
    def policy_words(self) -> str:
        """The step policy in a line, with the seconds that it costs and the bytes that are kept for
        it; "" without one.
        """
        if self.policy is None:
            return ""
        prices = self._with_and_without
        if prices is None:
            return self.policy.words
        own, every = (price.estimate for price in prices)
        kept = own.memory.kept_bf16_bytes if own.memory is not None else None
        beside = f", {kept / 1e9:.1f} GB of bf16 weights kept beside" if kept else ""
        return (
            f"{self.policy.words}: {own.quantized_s:.4g} s a run, {every.quantized_s:.4g} s without"
            f" it ({own.source}){beside or ', no second copy of the weights'}"
        )

    @property
    def _with_and_without(self) -> tuple[PricedList, PricedList] | None:
        """The list's price, and that of every step quantized; None without a policy that is run."""
        every = next((own for own in self.priced if own.name == EVERY_STEP), None)
        return None if every is None else (self.priced[0], every)

    def _policy_json(self) -> dict[str, Any] | None:
        if self.policy is None:
            return None
        prices = self._with_and_without
        if prices is None:
            return self.policy.to_json()
        own, every = (price.estimate for price in prices)
        kept = own.memory.kept_bf16_bytes if own.memory is not None else None
        return self.policy.to_json() | {
            "quantized_s": own.quantized_s,
            "quantized_s_without": every.quantized_s,
            "kept_bf16_bytes": kept or 0,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the list was read."""
        if self.subject.is_priced:
            return self.subject.listed.notes
        words = ", ".join(self.subject.other_formats)[:300]
        return (
            *self.subject.listed.notes,
            f"no price: this tool does not have the format {words}; names, fused Linears and dead"
            " entries are checked, what gains and what loses is not",
        )

    def _open_prices(self) -> list[dict[str, Any]]:
        """The rows of a list without a price: what is not known is null."""
        if self.subject.is_priced:
            return []
        return [
            {
                "name": self.source.name,
                "quantized_linears": len(self.subject.quantized),
                "bf16_s": self.priced[0].estimate.bf16_s,
                "quantized_s": None,
                "speedup": None,
            }
        ]


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


def keeps_its_form(audit: Audit) -> bool:
    """Whether `fixed_text` is in the list's own form: where its consumer has names of its own, and
    takes a list of them.
    """
    listed = audit.subject.listed
    return (
        isinstance(listed, ServedList)
        and listed.consumer == listed.served
        and bool(audit.source.text)
    )


def fixed_text(audit: Audit) -> str:
    """The list without its faults: in its own form where `keeps_its_form`, else as globs with
    reasons.

    Raises:
        PatternError: it has several formats, and globs cannot say them.
    """
    if keeps_its_form(audit):
        return own_form(audit.source.text, audit.fixed.formats, audit.subject)
    return plain_list(
        audit.fixed,
        audit.subject,
        name=audit.source.name,
        speedup=audit.fixed_price.estimate.speedup if audit.has_fixed_price else None,
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
