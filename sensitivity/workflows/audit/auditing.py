"""Is a list right for a model?

`audit_list`: every check, what the list is predicted to cost beside its bounds, and the list
without its faults.

    source = read_source("ltx2-torchao.txt", form="substring")
    audit = audit_list(resolve_spec("ltx2"), AuditRequest(source=source, min_width=1024))
    [finding for finding in audit.findings if finding.severity is Severity.ERROR]
    audit.fixed.formats

A model is profiled without weights, at the settings asked and at another batch size and prompt
length; nothing is downloaded, drawn or measured.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeMismatchError, SensitivityError
from sensitivity.latency import ShapeScale
from sensitivity.latency.pricer import PricedList, latency_model
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.search.store import default_storage
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.shapes.deriving import derive_study
from sensitivity.shapes.run import with_options
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit import blocks, names, prices
from sensitivity.workflows.audit.fixing import Fixed, fix, plain_list
from sensitivity.workflows.audit.reading import Source
from sensitivity.workflows.audit.subject import (
    AuditedModel,
    Finding,
    Severity,
    Subject,
    audited_model,
)

ORDER = tuple(Severity)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """What is audited.

    Attributes:
        source: the list.
        format: what Linears become that the list quantizes without saying to what.
        min_width: Linears with K or N below it stay bf16, as in published filters; None is what the
            list itself says.
        target: the GPU that is priced; None is the study's.
        recipe: a recipe whose price stands beside the list's.
        storage: the study's database, for layer sensitivities; None is where a search puts it.
        vary: whether other batch sizes and prompt lengths are looked at.
        options: what the run is made with.
    """

    source: Source
    format: FormatName = FormatName.NVFP4
    min_width: int | None = None
    target: str | None = None
    recipe: Path | None = None
    storage: Path | None = None
    vary: bool = True
    options: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found.

    Attributes:
        source: the list.
        subject: it on the model.
        findings: the worst first.
        priced: the list's price, first, and its bounds'.
        fixed: the list without its faults.
        calibrated: Linears whose sensitivity was known.
    """

    source: Source
    subject: Subject
    findings: tuple[Finding, ...]
    priced: tuple[PricedList, ...]
    fixed: Fixed
    calibrated: int

    def count(self, severity: Severity) -> int:
        """How many findings are this bad."""
        return sum(finding.severity is severity for finding in self.findings)

    def failed(self, on: str) -> bool:
        """Whether there are errors (`on` "error"), errors or warnings ("warning"); never for any
        other word.
        """
        worst = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING)}.get(
            on, ()
        )
        return any(finding.severity in worst for finding in self.findings)

    @property
    def fixed_price(self) -> PricedList:
        """The price of the list without its faults."""
        return self.priced[1] if self.fixed.formats != self.subject.formats else self.priced[0]

    @property
    def scale(self) -> ShapeScale | None:
        """The scale that is priced, where the model stands for a larger one."""
        return self.priced[0].estimate.scale

    def to_json(self) -> dict[str, Any]:
        """As `audit --json` writes it. Seconds are predicted, of one whole pipeline run."""
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


def audit_list(
    spec: StudySpec, request: AuditRequest, *, say: Callable[[str], None] = lambda _text: None
) -> Audit:
    """Audit a list on a study's model. `say` is told each step as it begins.

    Raises:
        UserError: and its kinds, for a model that cannot be profiled, an unknown target, or options
            that the pipeline does not have.
        PatternError: the list's consumer cannot read an entry, or fails on the list.
        FormatError: the target lacks a format of the list.
        RecipeMismatchError: the recipe is for other Linears.
    """
    spec = derive_study(with_options(spec, request.options))
    _check_formats(spec, request)
    say(f"profiling {spec.name}")
    model = audited_model(spec, target=request.target)
    others: dict[str, AuditedModel | Finding] = {}
    if request.vary:
        for words, other in prices.other_studies(spec).items():
            say(f"profiling {spec.name} {words}")
            try:
                others[words] = audited_model(other, target=request.target)
            except SensitivityError as error:
                others[words] = prices.unprofiled(words, error)
    return audit_on(model, request, others)


def audit_on(
    model: AuditedModel, request: AuditRequest, others: dict[str, AuditedModel | Finding]
) -> Audit:
    """The same on a model that is profiled already.

    `others`: {what is different, in words: the model at these settings, or why there is none}.
    """
    listed = request.source.listed
    if request.min_width is not None:
        listed = dataclasses.replace(listed, min_width=request.min_width)
    try:
        subject = Subject.of(model, listed, request.format)
    except PatternError as error:
        hint = names.fitting_form(listed, model.tree) if request.source.form == "glob" else ""
        raise PatternError(
            f"{request.source.name}: {error}" + (f" ({hint})" if hint else "")
        ) from None
    storage = request.storage if request.storage is not None else default_storage(model.spec)
    damage, broken = {}, []
    try:
        damage = blocks.stored_damage(model, request.format, storage)
    except SensitivityError as error:
        broken.append(blocks.unreadable(storage, error))
    found = [*_checks(subject, damage, others), *broken]
    fixed = fix(subject)
    return Audit(
        source=request.source,
        subject=subject,
        findings=tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity))),
        fixed=fixed,
        priced=tuple(_priced(subject, request, fixed)),
        calibrated=len(damage),
    )


def _checks(
    subject: Subject, damage: dict[str, float], others: dict[str, AuditedModel | Finding]
) -> Iterator[Finding]:
    for check in (
        names.dead_entries,
        names.over_matching,
        names.redundant_entries,
        prices.refused_by_format,
        prices.quantized_at_a_loss,
    ):
        yield from check(subject)
    if damage:
        yield from blocks.sensitive_quantized(subject, damage)
    for check in (
        blocks.fused_conflicts,
        blocks.too_many_patterns,
        prices.below_rule_of_thumb,
        prices.never_called,
    ):
        yield from check(subject)
    yield from prices.skipped_for_nothing(subject, blocks.harmless(damage))
    for words, other in others.items():
        yield from (
            [other]
            if isinstance(other, Finding)
            else prices.depends_on_the_run(subject, words, other)
        )


def _check_formats(spec: StudySpec, request: AuditRequest) -> None:
    """Raise FormatError for a format that the target lacks, before a model is built."""
    latency = latency_model(spec, request.target)
    listed = request.source.listed
    for name in {
        request.format,
        *(entry.format for entry in listed.entries),
        listed.default,
        *listed.defaults.values(),
    }:
        latency.linear_us(m=128, k=128, n=128, format=name or request.format)


def _priced(subject: Subject, request: AuditRequest, fixed: Fixed) -> Iterator[PricedList]:
    """The list, the list without its faults, the recipe, and the bounds."""
    model, bf16 = subject.model, FormatName.BF16
    price = model.pricer.price
    taken = {
        fqn: bf16 if model.refusal(fqn, subject.format) else subject.format
        for fqn in subject.formats
    }
    yield price(
        request.source.name,
        {fqn: bf16 if model.refusal(fqn, name) else name for fqn, name in subject.formats.items()},
    )
    if fixed.formats != subject.formats:
        yield price("the same, fixed", fixed.formats)
    if request.recipe is not None:
        recipe = load_recipe(request.recipe)
        odd = sorted(set(recipe.layers) ^ set(subject.formats))
        if odd:
            raise RecipeMismatchError(
                f"the recipe {recipe.name!r} and {model.spec.name} differ in {len(odd)} Linears,"
                f" the first is {odd[0]}; pass a recipe for this model"
            )
        yield price(recipe.name, recipe.layers)
    by_hand = rule_of_thumb(model.pricer.table, model.spec)
    yield price(
        "rule of thumb", {fqn: name if fqn in by_hand else bf16 for fqn, name in taken.items()}
    )
    yield price(f"all {subject.format}", taken)
    best = {fqn: name if model.gain_s(fqn, name) > 0 else bf16 for fqn, name in taken.items()}
    yield price("all that gains", best)
    yield price("none", {})


def fixed_text(audit: Audit) -> str:
    """The list without its faults, as globs with reasons.

    Raises PatternError where it has several formats.
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
