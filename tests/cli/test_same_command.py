"""Which command goes on is shown as it was typed."""

from pathlib import Path

import pytest

from sensitivity.cli.same_command import UNDER_UV, same_command

WORDS = ["search", "--model", "tiny flux", "--prompts", "it's.txt"]
QUOTED = "search --model 'tiny flux' --prompts 'it'\"'\"'s.txt'"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that a shell would run."""
    path = tmp_path / "sensitivity"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_program_on_the_path_is_called_by_its_name(program: Path, tmp_path: Path) -> None:
    """One that lies elsewhere is called by its path; words are quoted."""
    on_path = same_command([str(program), *WORDS], {"PATH": str(tmp_path)})
    assert on_path == f"sensitivity {QUOTED}"
    elsewhere = same_command([str(program), *WORDS], {"PATH": str(tmp_path / "bin")})
    assert elsewhere == f"{program} {QUOTED}"


def test_the_same_starter_goes_on(program: Path) -> None:
    """`uv run` and `python -m` start the next one too."""
    assert same_command([str(program), "models"], {UNDER_UV: "1"}) == "uv run sensitivity models"
    module = "/somewhere/sensitivity/__main__.py"
    assert same_command([module, "models"], {}) == "python -m sensitivity models"
