"""Is a list right for a model? `audit_list`: every check, the list's price, and the fixed list.

    source = read_source("ltx2-torchao.txt", form="substring")
    audit = audit_list(resolve_spec("ltx2"), AuditRequest(source=source, min_width=1024))
    [finding for finding in audit.findings if finding.severity is Severity.ERROR]
    audit.fixed.formats

A model is profiled without weights, at the settings that were asked for and, unless `vary` is
False, at another batch size and other prompt lengths. Nothing is downloaded or generated, and
prices are predicted unless `latency` makes another model of them (`shape_table.pricer_at_hand`).
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.storage_url import Storage
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.errors import PatternError, SensitivityError
from sensitivity.latency.pricer import MakeLatency, PricedList, latency_model
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.choice_memory import check_bound
from sensitivity.search.store import default_storage
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.spec.loading import spec_of
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit import blocks, gains, host, other_runs, policies, sensitive
from sensitivity.workflows.audit.dead import dead_entries, fitting_form
from sensitivity.workflows.audit.findings import Finding, Severity
from sensitivity.workflows.audit.fixing import Fixed, fix
from sensitivity.workflows.audit.memory import keeps_to_memory
from sensitivity.workflows.audit.model import AuditedModel, audited_model
from sensitivity.workflows.audit.over_matching import over_matching, redundant_entries
from sensitivity.workflows.audit.parts import denoiser_parts, unknown_parts
from sensitivity.workflows.audit.reading import Source
from sensitivity.workflows.audit.result import Audit
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.model_linears import check_same_linears
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.stored_damage import stored_damage

OtherRuns = Mapping[str, AuditedModel | Finding]
"""{what is different, in words: the model at these settings, or why there is none}."""
ORDER = tuple(Severity)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class AuditRequest(ShortRepr):
    """What is audited.

    Attributes:
        source: the list.
        format: what Linears become that the list quantizes without saying to what.
        min_width: Linears with K or N below it stay bf16, as in published filters; None is what the
            list itself says.
        target: the GPU that is priced; None is the study's.
        runtime: the way of running that is priced; None is the default.
        recipe: a recipe whose price stands beside the list's.
        max_memory_bytes: the largest peak of GPU memory that a run may have; None: any.
        storage: the study's database, for layer sensitivities; None is where a search puts it.
        vary: whether other batch sizes and prompt lengths are looked at.
        options: changes to the study's run.
    """

    _changes_only = True

    source: Source
    format: FormatName = FormatName.NVFP4
    min_width: int | None = None
    target: str | None = None
    runtime: str | None = None
    recipe: Path | None = None
    max_memory_bytes: int | None = None
    storage: Storage | None = None
    vary: bool = True
    options: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        """Raise UserError for a value of another type, an unknown runtime, or a bound that makes no
        sense.
        """
        coerce_fields(self)
        check_bound(self.max_memory_bytes)
        choose_runtime(self.runtime)


def audit_list(
    model: StudySpec | str | os.PathLike[str],
    request: AuditRequest | Source,
    *,
    say: Say = silent,
    latency: MakeLatency | None = None,
) -> Audit:
    """Audit a list on a study's model.

    Args:
        model: the study, or what `resolve_spec` takes; it is derived where only its model is known.
        request: the list, and how it is audited; a list alone is audited with every default.
        say: called with each step as it begins.
        latency: makes the model that prices each run; by default the predicted one prices.

    Raises:
        UserError: and its kinds, for a model that cannot be profiled, an unknown target, or options
            that the pipeline does not have.
        PatternError: the list's consumer cannot read an entry, or fails on the list.
        FormatError: the target lacks a format of the list.
        RecipeMismatchError: the recipe is for other Linears.
    """
    from sensitivity.shapes.deriving import derive_study
    from sensitivity.shapes.run import with_options

    request = AuditRequest(source=request) if isinstance(request, Source) else request
    spec = derive_study(with_options(spec_of(model), request.options))
    _check_formats(spec, request)
    say(f"profiling {spec.name}")
    how: dict[str, Any] = {
        "target": request.target,
        "runtime": choose_runtime(request.runtime),
        "latency": latency,
        "formats": () if latency is None else priced_formats(request),
    }
    audited = audited_model(spec, **how)
    others: dict[str, AuditedModel | Finding] = {}
    for words, other in (other_runs.other_studies(spec) if request.vary else {}).items():
        say(f"profiling {spec.name} {words}")
        try:
            others[words] = audited_model(other, **how)
        except SensitivityError as error:
            others[words] = other_runs.unprofiled(words, error)
    return audit_on(audited, request, others)


def priced_formats(request: AuditRequest) -> tuple[FormatName, ...]:
    """The quantized formats that an audit has prices of: the list's and the recipe's.

    Raises:
        RecipeError: the recipe cannot be read.
    """
    recipe = () if request.recipe is None else load_recipe(request.recipe).layers.values()
    names = dict.fromkeys((request.format, *request.source.listed.formats, *recipe))
    return tuple(name for name in names if isinstance(name, FormatName) and name.is_quantized)


def _check_formats(spec: StudySpec, request: AuditRequest) -> None:
    """Raise FormatError for a format that the target lacks, before a model is built."""
    latency, listed = latency_model(spec, request.target), request.source.listed
    for name in {request.format, *listed.formats}:
        if isinstance(name, FormatName):
            latency.check_format(name)


def audit_on(model: AuditedModel, request: AuditRequest, others: OtherRuns) -> Audit:
    """`audit_list` on a model that is profiled already.

    Args:
        model: the model at the settings that were asked for.
        request: the list, and how it is audited. `target`, `vary` and `options` are not used.
        others: the model at other settings.
    """
    subject = _subject(model, request)
    storage = request.storage if request.storage is not None else default_storage(model.spec)
    damage: dict[str, float] = {}
    broken: list[Finding] = []
    try:
        damage = stored_damage(model.pricer, model.spec, request.format, storage)
    except SensitivityError as error:
        broken.append(sensitive.unreadable(storage, error))
    memory = keeps_to_memory(subject, request.max_memory_bytes)
    found = [*_checks(subject, damage, others), *memory, *broken]
    fixed = fix(subject)
    return Audit(
        source=request.source,
        subject=subject,
        findings=tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity))),
        fixed=fixed,
        priced=tuple(_priced(subject, request, fixed)),
        calibrated=len(damage),
    )


def _subject(model: AuditedModel, request: AuditRequest) -> Subject:
    """The list on the model. Raises PatternError, with a hint at another form if one would fit."""
    listed = denoiser_parts(request.source.listed, model.tree)
    if request.min_width is not None:
        listed = dataclasses.replace(listed, min_width=request.min_width)
    try:
        return Subject.of(model, listed, request.format)
    except PatternError as error:
        hint = fitting_form(listed, model.tree) if request.source.form == "glob" else ""
        raise PatternError(
            f"{request.source.name}: {error}" + (f" ({hint})" if hint else "")
        ) from None


def _checks(subject: Subject, damage: dict[str, float], others: OtherRuns) -> Iterator[Finding]:
    """Every finding; those about prices only where the list has one."""
    yield from unknown_parts(subject)
    yield from dead_entries(subject)
    yield from over_matching(subject)
    yield from redundant_entries(subject)
    yield from gains.refused_by_format(subject)
    yield from gains.not_measured(subject)
    yield from blocks.fused_conflicts(subject)
    yield from policies.step_policies(subject)
    yield from blocks.too_many_patterns(subject)
    if not subject.is_priced:
        return
    yield from gains.quantized_at_a_loss(subject)
    yield from sensitive.sensitive_quantized(subject, damage)
    yield from gains.below_rule_of_thumb(subject)
    yield from gains.never_called(subject)
    yield from gains.nothing_quantized(subject)
    yield from gains.skipped_for_nothing(subject, sensitive.harmless(damage))
    yield from host.limited_by_host(subject)
    for words, other in others.items():
        if isinstance(other, Finding):
            yield other
        else:
            yield from other_runs.depends_on_the_run(subject, words, other)


def _priced(subject: Subject, request: AuditRequest, fixed: Fixed) -> Iterator[PricedList]:
    """The list, the list without its faults, the recipe, and the bounds; bf16 alone for a list
    without a price.
    """
    model, bf16 = subject.model, FormatName.BF16
    price = model.pricer.price
    if not subject.is_priced:
        yield price("none", {})
        return
    taken = {
        fqn: bf16 if model.refusal(fqn, subject.format) else subject.format
        for fqn in subject.formats
    }
    run = {
        fqn: bf16 if model.refusal(fqn, name) else FormatName(name)
        for fqn, name in subject.formats.items()
    }
    yield price(request.source.name, policies.with_policy(subject, run))
    if fixed.formats != subject.formats and fixed.is_priced:
        own = {fqn: FormatName(name) for fqn, name in fixed.formats.items()}
        yield price("the same, fixed", policies.with_policy(subject, own))
    if not policies.with_policy(subject, run).policy.is_plain:
        yield price(policies.EVERY_STEP, run)
    if request.recipe is not None:
        recipe = load_recipe(request.recipe)
        check_same_linears(recipe, model.run.table)
        yield price(recipe.name, recipe.assignment)
    by_hand = rule_of_thumb(model.pricer.table, model.spec)
    yield price(
        "rule of thumb", {fqn: name if fqn in by_hand else bf16 for fqn, name in taken.items()}
    )
    yield price(f"all {subject.format}", taken)
    best = {fqn: name if model.gain_s(fqn, name) > 0 else bf16 for fqn, name in taken.items()}
    yield price("all that gains", best)
    yield price("none", {})
