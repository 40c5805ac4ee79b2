"""Plain lists: lines and literals."""

import pytest

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.rules import MAX_ENTRY
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


def texts(listed: ConsumerList) -> list[tuple[str, str]]:
    return [(entry.rule, entry.text) for entry in listed.entries]


def test_lines() -> None:
    """Comments are reasons, blank lines are nothing, a rule may stand before a colon, repeats count
    once, lines are numbered.
    """
    listed = get_reader("substring").read(
        "\ufeff# a list\n\nembed  # embeddings\nfqn: proj_out\nembed  # embeddings\nregex:a:b\n"
    )
    assert texts(listed) == [
        ("substring", "embed"),
        ("fqn", "proj_out"),
        ("substring", "embed"),
        ("regex", "a:b"),
    ]
    assert [(entry.line, entry.reason) for entry in listed.entries[:2]] == [
        (3, "embeddings"),
        (4, ""),
    ]
    assert {entry.format for entry in listed.entries} == {BF16}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# nothing\n", []),
        ("[]", []),
        ('["a", "b"]', ["a", "b"]),
        ("('a',)", ["a"]),
        ('[\n  "a",  # why\n  "b",\n]\n', ["a", "b"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("(proj_out.*|.*(norm_out|embedder).*)", ["(proj_out.*|.*(norm_out|embedder).*)"]),
        ("[ab]c\n[cd]e", ["[ab]c", "[cd]e"]),
    ],
)
def test_lines_and_literals_are_told_apart(text: str, expected: list[str]) -> None:
    """A list as JSON or Python writes it is that list; a regular expression or glob in brackets is
    an entry; nothing is an empty list.
    """
    assert [entry.text for entry in get_reader("regex").read(text).entries] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('("a")', r"found a str in brackets; .*add a comma"),
        ('{"a": 1}', "found a dict in brackets; expected a list of strings"),
        ('["a", 1]', "found 1 in the list; expected a string"),
        ('["a", b]', r"line 1: found code \(b\); expected constants"),
        ('["a"', "found a list that cannot be read"),
        (
            "a\n" + "b" * 5000,
            f"line 2: found an entry of 5000 characters; expected 1 to {MAX_ENTRY}",
        ),
        (
            "\n".join(f"a{place}" for place in range(20_001)),
            "found 20001 entries; expected at most 20000",
        ),
    ],
)
def test_lists_that_cannot_be_read(text: str, message: str) -> None:
    """The message says what is wrong and what was expected."""
    with pytest.raises(PatternError, match=message):
        get_reader("regex").read(text)


def test_names_with_and_without_the_component() -> None:
    """Where there are several denoisers, an entry may name both or one of them."""
    fqns = ("transformer.blocks.1.q", "transformer.blocks.10.q", "transformer_2.blocks.1.q")
    tree = ModelTree(fqns=fqns, classes={"transformer": "A", "transformer_2": "A"}, several=True)

    def kept(text: str) -> set[str]:
        return {
            fqn
            for fqn, fmt in get_reader("glob").read(text).assign(tree, quantized=NVFP4).items()
            if fmt is BF16
        }

    assert kept("blocks.1.*") == {fqns[0], fqns[2]}
    assert kept("transformer.blocks.1.*") == {fqns[0]}
    assert kept("transformer.*") == {fqns[0], fqns[1]}
