"""Which denoising steps run quantized, by the step policy beside a list, and who runs it so?

    found = audited_policy(subject)      # None where the list has no policy
    found.policy, found.share            # StepPolicy(first_steps=3, ...), 29 / 35
    list(step_policies(subject))         # what is wrong with it

A checkpoint has its policy in `quantization_config.runtime.diffusion_step_policy`. It is read as
each tool that may load the checkpoint reads it (`consumers.step_policies`). A tool refuses it, or
ignores it, since it runs another model by it or switches other formats. Where no tool runs it, the
list is priced with every step quantized. A recipe's policy is its own.

Findings. What all tools refuse is an error, and so is a policy by which no step of the study's run
is quantized. What some refuse, and what all ignore, is a warning.

What it does not do: price. Gains of single Linears in other findings are those of a run with every
step quantized.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.consumers.lists import ListedPolicy
from sensitivity.consumers.step_policies import KEY, POLICY_TOOLS, ignored_because, read_policy
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, StepPolicy
from sensitivity.errors import PatternError
from sensitivity.latency.step_mix import STEPS_SETTING
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.subject import Subject

EVERY_STEP = "the same, every step quantized"
"""The name of the list's price without its policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedPolicy:
    """The step policy of a list, on a model.

    Attributes:
        policy: what runs; the plain one where nobody runs the list's policy.
        steps: denoising steps of the study's run; None if its settings do not say.
        refused: {tool: why it refuses the policy}, as `POLICY_TOOLS` calls tools.
        ignored: {tool: why it does nothing with it}.
        read_by: the tools that run it.
    """

    policy: StepPolicy
    steps: int | None
    refused: Mapping[str, str]
    ignored: Mapping[str, str]
    read_by: tuple[str, ...]

    @property
    def share(self) -> float | None:
        """The part of the steps that run quantized, from 0 to 1; None if steps are unknown."""
        return None if self.steps is None else self.policy.share(steps=self.steps)

    @property
    def words(self) -> str:
        """One line: who runs what, and how much of the run is quantized."""
        if self.policy.is_plain:
            return "step policy: no tool runs it; every step runs quantized"
        who = ", ".join(POLICY_TOOLS[name].label for name in self.read_by)
        by = f" by {who}" if who else ""
        text = f"step policy: {self.policy.words}{by}"
        if self.steps is None or self.share is None:
            return f"{text}; the study's run does not say how many steps it has"
        return f"{text}; {round(self.share * self.steps)} of {self.steps} steps quantized"

    def applied(self, formats: Mapping[str, FormatName]) -> Assignment:
        """The formats with the policy, where it can be priced: where the steps are known."""
        return Assignment(formats, PLAIN if self.steps is None else self.policy)

    def to_json(self) -> dict[str, Any]:
        """The object "step_policy" in the JSON of an audit, without its prices."""
        tools = [*self.read_by, *self.refused, *self.ignored]
        return {
            "first_steps": self.policy.first_steps,
            "last_steps": self.policy.last_steps,
            "mode": None if self.policy.is_plain else self.policy.mode.value,
            "steps": self.steps,
            "quantized_share": self.share,
            "tools": {
                name: {
                    "runs_it": name in self.read_by,
                    "why_not": self.refused.get(name) or self.ignored.get(name),
                }
                for name in tools
            },
        }


def audited_policy(subject: Subject) -> AuditedPolicy | None:
    """The step policy beside the list; None if it has none.

    Of policies for several components the first that is run counts.
    """
    found = [_on_model(one, subject) for one in subject.listed.policies]
    return next((one for one in found if one.read_by), found[0] if found else None)


def with_policy(subject: Subject, formats: Mapping[str, FormatName]) -> Assignment:
    """Formats of the model's Linears, run by the list's step policy if it has one."""
    found = audited_policy(subject)
    return Assignment.of(formats) if found is None else found.applied(formats)


def step_policies(subject: Subject) -> Iterator[Finding]:
    """What is wrong with the list's step policy."""
    for listed in subject.listed.policies:
        found = _on_model(listed, subject)
        yield from _refusals(found)
        if found.read_by or listed.own is not None:
            yield from _of_the_run(found, subject)
        elif found.ignored:
            why = next(iter(found.ignored.values()))
            yield _finding(
                Severity.WARNING,
                f"has a {KEY} that no tool runs on this model: {why}; take it out",
            )


def _on_model(listed: ListedPolicy, subject: Subject) -> AuditedPolicy:
    """What each tool makes of a policy."""
    steps = subject.model.run.table.settings.get(STEPS_SETTING)
    known = steps if type(steps) is int and steps > 0 else None
    if listed.own is not None:
        return AuditedPolicy(policy=listed.own, steps=known, refused={}, ignored={}, read_by=())
    classes = subject.model.tree.classes
    kinds = [classes[listed.component]] if listed.component in classes else list(classes.values())
    refused, ignored, read = dict[str, str](), dict[str, str](), dict[str, StepPolicy]()
    for tool in listed.tools:
        try:
            parsed = read_policy(tool, listed.config)
        except PatternError as error:
            refused[tool] = str(error)
            continue
        if because := ignored_because(tool, kinds):
            ignored[tool] = because
        elif parsed is None:
            ignored[tool] = _not_applied(tool)
        else:
            read[tool] = parsed.policy
    return AuditedPolicy(
        policy=next(iter(read.values()), PLAIN),
        steps=known,
        refused=refused,
        ignored=ignored,
        read_by=tuple(read),
    )


def _not_applied(tool: str) -> str:
    label, known = POLICY_TOOLS[tool].label, " and ".join(POLICY_TOOLS[tool].algorithms)
    return (
        f"{label} switches ModelOpt's {known} in the component `transformer` by step, and this is"
        " another format or component"
    )


def _refusals(found: AuditedPolicy) -> Iterator[Finding]:
    if not found.refused:
        return
    fatal = not found.read_by and not found.ignored
    severity = Severity.ERROR if fatal else Severity.WARNING
    for message in dict.fromkeys(found.refused.values()):
        yield _finding(severity, message)


def _of_the_run(found: AuditedPolicy, subject: Subject) -> Iterator[Finding]:
    """What a policy that is run does to the study's run."""
    if found.policy.is_plain:
        yield _finding(
            Severity.NOTE, f"has a {KEY} of no steps, which changes nothing; take it out"
        )
    elif found.steps is None:
        yield _finding(
            Severity.NOTE,
            f"runs its {found.policy.words}, and {subject.model.spec.name} does not say how many"
            f" steps it has: the price is of every step quantized; set `{STEPS_SETTING}`",
        )
    elif found.share == 0:
        yield _finding(
            Severity.ERROR,
            f"runs its {found.policy.words}, and the run of {subject.model.spec.name} has"
            f" {found.steps} steps: nothing ever runs quantized; expected fewer edge steps than"
            " steps: take some out, or run more steps",
        )


def _finding(severity: Severity, message: str) -> Finding:
    return Finding(kind=Kind.STEPS, severity=severity, message=message)
