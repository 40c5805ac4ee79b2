"""What a gate found, as the XML that continuous integration reads: `junit_xml`.

    junit_xml(checked, seconds=12.3)       # <?xml ...><testsuites ...><testsuite ...>...

A criterion is a test case. One that fails has a `failure`. One that is undecided has an `error` and
is not `skipped`: a skipped test looks like a good one. The elements are those that JUnit's Ant task
writes, which Jenkins, GitLab and others read. Text is escaped, and characters that XML does not
have are blanks.
"""

from collections.abc import Mapping
from types import MappingProxyType
from xml.etree import ElementTree

from sensitivity.cli.flags import name_flags
from sensitivity.cli.render.check import basis_words, criterion_words
from sensitivity.core.words import printable
from sensitivity.workflows.criteria import Criterion, Decision
from sensitivity.workflows.gate import Checked

SUITE = "sensitivity check"
_OUTCOMES: Mapping[Decision, str] = MappingProxyType(
    {Decision.FAILS: "failure", Decision.UNDECIDED: "error"}
)


def junit_xml(checked: Checked, *, seconds: float) -> str:
    """The XML of a gate.

    Args:
        checked: what was found.
        seconds: what the check took; it is the time of the suite.
    """
    decisions = [criterion.decision for criterion in checked.criteria]
    counts = {
        "name": SUITE,
        "tests": str(len(decisions)),
        "failures": str(decisions.count(Decision.FAILS)),
        "errors": str(decisions.count(Decision.UNDECIDED)),
        "time": f"{seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", counts | {"skipped": "0", "timestamp": f"{checked.date}T00:00:00"}
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(checked).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": printable(value)})
    for criterion in checked.criteria:
        _add_case(suite, criterion, checked)
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _properties(checked: Checked) -> dict[str, str]:
    """What the gate was, on what it rests, and the versions."""
    drawn = checked.drawn
    return {
        "recipe": checked.recipe.name,
        "model": checked.model,
        **({} if checked.against is None else {"against": checked.against.name}),
        **({} if drawn is None else {"weights_sha256": drawn.weights_sha256}),
        **{name: str(value) for name, value in checked.environment.items()},
    }


def _add_case(suite: ElementTree.Element, criterion: Criterion, checked: Checked) -> None:
    """One criterion."""
    words = name_flags(criterion_words(criterion))
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": printable(f"{checked.model}.{checked.recipe.name}"),
            "name": printable(criterion.asked),
            "time": "0",
        },
    )
    if (outcome := _OUTCOMES.get(criterion.decision)) is not None:
        attributes = {"message": words, "type": criterion.field}
        ElementTree.SubElement(case, outcome, attributes).text = basis_words(checked) or words
    ElementTree.SubElement(case, "system-out").text = words
