"""No text stops a reader: hostile ones are read or refused at once, with a short message."""

import time

import pytest

from sensitivity.consumers import timed_regexes
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.literals import parse_python
from sensitivity.consumers.readers.strict_yaml import parse_yaml
from sensitivity.errors import PatternError

from support.hostile_lists import hostile_texts, read_everywhere

CPU_SECONDS = 8.0
"""What one text may take in all forms together; most take milliseconds."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short limit of regular expressions, which would each take the whole of it."""
    monkeypatch.setattr(timed_regexes, "REGEX_SECONDS", 0.02)


@pytest.mark.usefixtures("impatient")
def test_hostile_texts_are_read_or_refused_at_once() -> None:
    """Deep, doubling, endless and backtracking texts, in every form: no error but the program's
    own, no long message, and no long time.
    """
    slow = []
    for name, text in hostile_texts():
        started = time.process_time()
        list(read_everywhere(text))
        if time.process_time() - started > CPU_SECONDS:
            slow.append(name)
    assert not slow


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ['x' * 3]", r"found code \('x' \* 3\)"),
        ("[f'{x}']", "found code"),
        ("[0x" + "f" * 40 + "]", "no finite one of 64 bits"),
        ("[1e999]", "no finite one of 64 bits"),
        ("['\\ud800']", "a lone surrogate"),
        ("[b'x']", "found code"),
        ("[1j]", "found code"),
        ("[*'ab']", "found code"),
        ("{**[1]}", "found code"),
        (
            "a = ['quantizer']\n"
            + "".join(
                f"{x} = [{y}, {y}, {y}, {y}]\n"
                for x, y in zip("bcdefghijklmn", "abcdefghijklm", strict=True)
            ),
            "over 4000000 characters if it is written out",
        ),
        ("a = [0]\n" + "a = [a]\n" * 70, "deeper than 64 levels"),
    ],
)
def test_python_that_means_too_much_is_refused(text: str, words: str) -> None:
    """Values are bounded as if they were written out, and numbers and texts as in JSON."""
    with pytest.raises(PatternError, match=words):
        parse_python(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nb: *x", r"found an alias \(\*x\)"),
        ("a: !!binary aGk=", "found the tag"),
        ("a: .inf", "found float that JSON cannot hold"),
        ("a: 0x" + "f" * 40, "found int that JSON cannot hold"),
        ("a: " + "[" * 70 + "]" * 70, "deeper than 64 levels"),
        ("a: 1" + ":59" * 2000, "found 6001 characters without quotes"),
        ("- x\n" * 50_001, "YAML of more than 50000 values"),
    ],
)
def test_yaml_that_means_too_much_is_refused(text: str, words: str) -> None:
    """Aliases, tags, endless numbers and deep nesting; a date is a text."""
    with pytest.raises(PatternError, match=words):
        parse_yaml(text)
    assert parse_yaml("day: 2026-11-28") == {"day": "2026-11-28"}


def test_a_list_of_many_names_is_read() -> None:
    """The bounds are far from what models need: every Linear of the largest, by name, passes."""
    names = [
        f"transformer_blocks.{block}.attn.to_{name}" for block in range(500) for name in "qkvo"
    ]
    listed = get_reader("modelopt").read(
        repr([{"quantizer_name": f"{name}.weight_quantizer", "enable": False} for name in names])
    )
    assert len(listed.entries) == len(names)
    assert len(get_reader("fqn").read(repr(names)).entries) == len(names)
