"""An audit as a report: what was found, the shapes behind it, and what the list costs.

The worst findings are first; of one kind the first few are shown. The JSON has all of them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sensitivity.cli.flags import name_flags
from sensitivity.cli.render.priced import compare_table
from sensitivity.cli.render.tables import FittedTable, Names, number, words
from sensitivity.core.format_name import Source, quantized
from sensitivity.workflows.audit.wording import some_roles

if TYPE_CHECKING:
    from sensitivity.workflows.audit.findings import Finding, Kind, RoleRow, Severity
    from sensitivity.workflows.audit.result import Audit

STYLES = {"error": "red", "warning": "yellow", "note": "dim"}
SHOWN, SHOWN_SHAPES = 8, 6
TABLED = ("quantized-at-a-loss", "skipped-for-nothing", "sensitive-quantized")
"""Kinds whose shapes are shown."""


def audit_report(audit: "Audit") -> Lines:
    """The whole report."""
    parts: list[RenderableType] = [_heading(audit)]
    parts += [Text(audit.policy_words)] if audit.policy_words else []
    parts += [Text(note, style="yellow") for note in audit.notes]
    if audit.findings:
        parts += ["", _findings_table(audit.findings, audit.priced[0].estimate.source)]
    for finding in audit.findings:
        if finding.kind.value in TABLED and finding.rows:
            parts += ["", _shapes_table(finding, audit)]
    parts += ["", compare_table(audit.priced), ""]
    changes = "; ".join(audit.fixed.changes)
    parts.append(Text(f"fixed, it would be: {changes}" if changes else "nothing to fix"))
    if audit.scale is not None:
        parts.append(Text(str(audit.scale), style="dim"))
    return Lines(*parts)


def summary_line(audit: "Audit") -> str:
    """How many findings there are, by severity."""
    counts = [(sum(f.severity.value == name for f in audit.findings), name) for name in STYLES]
    return ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for number, name in counts)


def _heading(audit: "Audit") -> Text:
    subject, source = audit.subject, audit.source
    guessed = ", guessed by its looks (--as says otherwise)" if source.guessed else ""
    how = f"read as {source.form}{guessed}"
    width = f", K and N from {subject.listed.min_width} on" if subject.listed.min_width else ""
    live = sum(bool(hits) for hits in subject.hits)
    entries = f"; {live} of {len(subject.hits)} entries hit a Linear" if subject.hits else ""
    known = (
        f"; {audit.calibrated} Linears are calibrated"
        if audit.calibrated
        else "; no layer sensitivity is known"
    )
    return Text(
        f"{source.name} {how}{width}, for {subject.model.spec.name}: {len(subject.quantized)} of"
        f" {len(subject.formats)} Linears quantized ({_formats(audit)}){entries}{known}",
        style="bold",
    )


def _formats(audit: "Audit") -> str:
    used = quantized(audit.subject.formats).values()
    return ", ".join(dict.fromkeys(name.value for name in used)) or "none"


def _findings_table(findings: Sequence["Finding"], source: Source) -> FittedTable:
    """A row a finding; of one kind and severity the first `SHOWN`."""
    table = FittedTable(
        words(""), words("finding", least=20), words(f"what (seconds are {source})", least=24)
    )
    totals = Counter((finding.severity, finding.kind) for finding in findings)
    seen: Counter[tuple[Severity, Kind]] = Counter()
    for finding in findings:
        key = (finding.severity, finding.kind)
        seen[key] += 1
        where = f"line {finding.line}: " if finding.line is not None else ""
        entry = f"{where}{_clipped(finding.entry)}: " if finding.entry else ""
        if seen[key] <= SHOWN:
            table.add_row(
                *(word.value for word in key),
                Text(f"{entry}{name_flags(finding.message)}"),
                style=STYLES[key[0].value],
            )
        if seen[key] == SHOWN < totals[key]:
            more = Text(f"and {totals[key] - SHOWN} more of these, all of them in --json")
            table.add_row(*(word.value for word in key), more, style=STYLES[key[0].value])
    return table


def _clipped(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _shapes_table(finding: "Finding", audit: "Audit") -> FittedTable:
    """The finding's Linears by shape, with the roles that have it."""
    first = audit.priced[0].estimate
    table = FittedTable(
        number("M"),
        number("K"),
        number("N"),
        number("Linears"),
        number("calls", drop=1),
        number("gain ms"),
        words("roles", drop=2, least=20),
        title=(
            f"{finding.kind.value}: gain in a run, {first.source} for {first.target}, batch"
            f" {first.batch_size}"
        ),
    )
    groups: dict[tuple[int, int, int], list[RoleRow]] = {}
    for row in finding.rows:
        groups.setdefault((row.m, row.k, row.n), []).append(row)
    ordered = sorted(groups.items(), key=lambda item: -abs(sum(row.gain_s for row in item[1])))
    for (m, k, n), rows in ordered[:SHOWN_SHAPES]:
        table.add_row(
            str(m),
            str(k),
            str(n),
            str(sum(row.linears for row in rows)),
            str(sum(row.calls for row in rows)),
            f"{sum(row.gain_s for row in rows) * 1e3:+.2f}",
            Names((row.role for row in rows), some_roles),
        )
    if len(ordered) > SHOWN_SHAPES:
        rest = [row for _, rows in ordered[SHOWN_SHAPES:] for row in rows]
        table.add_row(
            "",
            "",
            "",
            str(sum(row.linears for row in rest)),
            str(sum(row.calls for row in rest)),
            f"{sum(row.gain_s for row in rest) * 1e3:+.2f}",
            f"{len(ordered) - SHOWN_SHAPES} more shapes",
        )
    return table
