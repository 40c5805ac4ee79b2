"""Rules: what an entry hits, against Python's re and fnmatch."""

import fnmatch
import re
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.consumers import timed_regexes
from sensitivity.consumers.rules import MAX_ENTRY, RULES, Names, hits
from sensitivity.errors import PatternError

NAMES = (
    "proj_out",
    "single.0.proj_out",
    "single.0.attn.to_q",
    "transformer_blocks.1.attn.to_q",
    "transformer_blocks.10.attn.to_q",
    "single_transformer_blocks.1.attn.to_q",
    "blocks.1.audio_attn.to_q",
    "blocks.1.attn.to_q",
)


@pytest.mark.parametrize(
    ("rule", "entry", "expected"),
    [
        ("fqn", "proj_out", {0}),
        ("fqn", "transformer_blocks.1", set()),
        ("fqn", "proj_*", set()),
        ("glob", "proj_out", {0}),
        ("glob", "*.proj_out", {1}),
        ("glob", "transformer_blocks.1.*", {3}),
        ("glob", "*transformer_blocks.1*", {3, 4, 5}),
        ("fnmatch", "*attn*", {2, 3, 4, 5, 6, 7}),
        ("fnmatch", "*[!_]attn*", {2, 3, 4, 5, 7}),
        ("substring", "blocks.1", {3, 4, 5, 6, 7}),
        ("substring", "audio_", {6}),
        ("substring", "audio_.*", set()),
        ("dotted-substring", "proj_out", {0, 1}),
        ("dotted-substring", "proj_out.weight", {0}),
        ("dotted-substring", "transformer_blocks.1", {3, 5}),
        ("dotted-substring", "blocks.1.attn", {3, 5, 7}),
        ("dotted-substring", "audio_", set()),
        ("dotted-substring", "weight", set()),
        ("prefix", "transformer_blocks.1", {3}),
        ("prefix", "proj_out", {0}),
        ("prefix", "proj", set()),
        ("regex", "proj_out.*", {0}),
        ("regex", ".*proj_out", {0, 1}),
        ("regex", r"transformer_blocks\.1", {3, 4}),
        ("regex-full", r"transformer_blocks\.1\..*", {3}),
        ("regex-full", "proj", set()),
        ("regex-search", r"blocks\.1\.", {3, 5, 6, 7}),
        ("regex-search", "^proj_out$", {0}),
        ("weight-key", "proj_out", {0}),
        ("weight-key", "proj_out.weight", {0}),
        ("weight-key", "transformer_blocks.1", set()),
        ("weight-key", "re:proj_out", {0}),
        ("weight-key", r"re:.*proj_out\.weight", {0, 1}),
        ("weight-key", "re:proj", set()),
        ("part", "attn", {2, 3, 4, 5, 7}),
        ("part", "blocks.1", set()),
        ("last-part", "proj_out", {0, 1}),
        ("last-part", "single.0.proj_out", set()),
        ("bitsandbytes", "single.0.proj_out", {1}),
        ("bitsandbytes", "transformer_blocks.1", {3, 5}),
        ("bitsandbytes", "attn", {2, 3, 4, 5, 6, 7}),
        ("bitsandbytes", "proj", set()),
        ("sdnq", "proj_out", {0, 1}),
        ("sdnq", ".proj_out", {0}),
        ("sdnq", ".proj_out.weight", {0}),
        ("sdnq", "single.0.proj_out", set()),
        ("sdnq", "single.0.proj_out.weight", {1}),
        ("sdnq", "transformer_blocks.1.*", {3}),
        ("sdnq", "*attn.to_q", {2, 3, 4, 5, 6, 7}),
        ("sdnq", "blocks[.]1.*to_q$", set()),
        ("sdnq", "blocks[.]1.*weight$", {6, 7}),
        ("weight-quantizer", "proj_out", {0, 1}),
        ("weight-quantizer", "single.0.proj_out.weight", {1}),
        ("weight-quantizer", "transformer_blocks.?.", {3, 5}),
        ("weight-quantizer", "input_quantizer", set()),
    ],
)
def test_what_an_entry_hits(rule: str, entry: str, expected: set[int]) -> None:
    """Each rule hits the names that it says, on names where rules differ."""
    assert hits(rule, entry, NAMES) == {NAMES[place] for place in expected}


TREE = ("a", "a.b", "a.1.b", "b.weight", "ab.1.a", "proj.a.b", "1.a")


def kept_by_bitsandbytes(entry: str, name: str) -> bool:
    """What diffusers' `_replace_with_bnb_linear` asks of a Linear, while it walks the tree."""
    own = name.split(".")[-1]
    return own in [entry] or f"{entry}." in name or entry == name


def kept_by_sdnq(entry: str, name: str) -> bool:
    """What the package sdnq asks of a parameter."""
    parameter = f"{name}.weight"
    if entry.startswith("."):
        return parameter.startswith(entry[1:])
    if entry in (parameter, *parameter.split(".")):
        return True
    pattern = entry.replace(".*", "\\.*").replace("*", ".*")
    return "*" in entry and re.match(pattern, parameter) is not None


def kept_by_gguf(entry: str, name: str) -> bool:
    """diffusers' walk for GGUF and BFL leaves out every child of that name."""
    return any(child == entry for child in name.split("."))


@given(st.text(alphabet="ab.*1", min_size=1, max_size=6))
def test_backends_of_diffusers_match_as_their_code_does(entry: str) -> None:
    """Entries keep what the packages' own loops keep, full names and bare stars included."""
    for rule, kept in (
        ("bitsandbytes", kept_by_bitsandbytes),
        ("sdnq", kept_by_sdnq),
        ("part", kept_by_gguf),
    ):
        assert hits(rule, entry, TREE) == {name for name in TREE if kept(entry, name)}, rule


@given(st.text(alphabet="ab.*?[]!-1", min_size=1, max_size=8))
def test_fnmatch_is_pythons(entry: str) -> None:
    """Any pattern, brackets that do not close included, hits what `fnmatch.fnmatchcase` says."""
    names = ("a", "b", "a.b", "a.1", "a.11", "[", "a-b", "a]", "!", "ab.1")
    assert hits("fnmatch", entry, names) == {
        name for name in names if fnmatch.fnmatchcase(name, entry)
    }


@given(st.text(alphabet="ab.*?+()|[]^$\\1{},", min_size=1, max_size=8))
def test_regular_expressions_are_pythons(entry: str) -> None:
    """What Python's re compiles hits the same names in all three ways, and what it refuses is
    refused.
    """
    names = ("a", "b", "a.b", "a.1", "a.11", "ab.1", "blocks.1.a")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pattern = re.compile(entry)
    except re.error:
        with pytest.raises(PatternError, match="expected one that Python's re compiles"):
            hits("regex", entry, names)
        return
    assert hits("regex", entry, names) == {name for name in names if pattern.match(name)}
    assert hits("regex-full", entry, names) == {name for name in names if pattern.fullmatch(name)}
    assert hits("regex-search", entry, names) == {name for name in names if pattern.search(name)}


def test_a_slow_expression_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that backtracks for ever is refused after one time limit for all names."""
    monkeypatch.setattr(timed_regexes, "REGEX_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(
        PatternError,
        match=r"'\(a\|aa\)\+\$', which takes more than 0\.1 s on the names of one model",
    ):
        hits("regex", "(a|aa)+$", [f"{'a' * 80}.{place}" for place in range(200)])
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("entry", ["", "a" * (MAX_ENTRY + 1)])
def test_an_entry_has_a_length(entry: str) -> None:
    """Empty and huge entries are refused by every rule."""
    for rule in RULES:
        with pytest.raises(
            PatternError,
            match=f"found an entry of {len(entry)} characters; expected 1 to {MAX_ENTRY}",
        ):
            hits(rule, entry, NAMES)


PARTS = st.sampled_from(["a", "ba", "ab", "b", "1", "11", "weight"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
INDEXED = ("dotted-substring", "path", "glob", "fnmatch", "star", "prefix", "substring", "target")


@given(st.lists(PATHS, min_size=1, max_size=6), PATHS, st.sampled_from(INDEXED))
def test_indices_of_names_change_nothing(names: list[str], path: str, rule: str) -> None:
    """With its indices, `Names` finds what a look at every name finds."""
    entries = [path, path.replace("a", "*"), path.replace("1", "[0-9]")]
    for entry in [*entries, f"re:{path}$"] if rule == "target" else entries:
        expected = {name for name in names if RULES[rule].test(entry)(name)}
        assert hits(rule, entry, Names((name, {name}) for name in names)) == expected
        assert hits(rule, entry, names) == expected


@given(
    st.lists(PATHS, min_size=1, max_size=6), PATHS, st.sampled_from([".*", "[ab]", "a?", ".", ""])
)
def test_simple_expressions_match_as_re_does(names: list[str], path: str, sign: str) -> None:
    """Expressions that are matched without a time limit, closed and open."""
    escaped = path.replace(".", r"\.")
    seen = Names((name, {name}) for name in names)
    for entry in (escaped + sign, sign + escaped, f"^{escaped}{sign}$", f"{sign}{escaped}$"):
        for rule, method in (
            ("regex", re.match),
            ("regex-full", re.fullmatch),
            ("regex-search", re.search),
        ):
            assert hits(rule, entry, seen) == {name for name in names if method(entry, name)}
