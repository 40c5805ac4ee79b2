"""The notes of a release come from the changelog."""

import runpy

import pytest

from support.paths import ROOT

SCRIPT = runpy.run_path(str(ROOT / ".ci" / "release_notes.py"))


def test_each_version_has_its_section() -> None:
    """Headings with and without a date or brackets name their version; the rest is its body."""
    text = "# Changelog\n\n## Unreleased\n\n- new\n\n## [0.2.0] - 2026-12-24\n\n- old\n  more\n"
    assert SCRIPT["sections"](text) == {"Unreleased": "- new\n", "0.2.0": "- old\n  more\n"}


def test_the_changelog_of_the_repository_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not released is printed; an unknown version is refused with those that are there."""
    SCRIPT["main"]([])
    assert capsys.readouterr().out.strip() in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no section '9.9'; expected one of Unreleased"):
        SCRIPT["main"](["v9.9"])
