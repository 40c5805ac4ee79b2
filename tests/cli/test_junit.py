"""JUnit XML of a gate: its counts, and text that XML does not take as it is."""

from xml.etree import ElementTree

from sensitivity.cli.render.junit import junit_xml
from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.criteria import Criterion, Decision
from sensitivity.workflows.gate import Checked, Gate

from support.two_blocks import recipe_data


def checked(name: str, *decisions: Decision) -> Checked:
    """A gate of these decisions."""
    rows = (
        Criterion(
            field="max_typical",
            asked=f"bound {i} <= 1 & more",
            decision=decision,
            value=2.0,
            found="<2>",
            why="see `max_typical`\x00\x1b[31m",
        )
        for i, decision in enumerate(decisions)
    )
    return Checked(
        recipe=Recipe.from_mapping(recipe_data(name=name)),
        model="toy",
        gate=Gate(),
        criteria=tuple(rows),
        environment={"torch": "2.15", "device": 'a "GPU" <b>\x07'},
        date="2026-11-29",
    )


def test_each_criterion_is_a_case() -> None:
    """Failures and errors are counted, and a case that passes has neither."""
    text = junit_xml(checked("toy", *Decision), seconds=1.5)
    root = ElementTree.fromstring(text)
    (suite,) = root
    for element in (root, suite):
        assert element.attrib.items() >= {
            ("tests", "3"),
            ("failures", "1"),
            ("errors", "1"),
            ("time", "1.500"),
        }
    cases = suite.findall("testcase")
    assert [[part.tag for part in case] for case in cases] == [
        ["system-out"],
        ["failure", "system-out"],
        ["error", "system-out"],
    ]
    assert {case.get("classname") for case in cases} == {"toy.toy"}
    assert suite.get("timestamp") == "2026-11-29T00:00:00"


def test_text_is_escaped() -> None:
    """Markup stays text, and control characters become blanks: any parser reads the file."""
    text = junit_xml(checked("<a & 'b'>\ufffe", Decision.FAILS), seconds=0)
    assert text.isascii() or "\ufffe" not in text
    case = ElementTree.fromstring(text)[0].find("testcase")
    assert case is not None
    assert case.get("classname") == "toy.<a & 'b'> "
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("message") == "bound 0 <= 1 & more: <2>; see `max_typical`  [31m"
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
