"""Prints the notes of a release: the version's section of CHANGELOG.md.

python .ci/release_notes.py 0.1.0 > notes.md
python .ci/release_notes.py              # what is not released yet
"""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"
UNRELEASED = "Unreleased"


def sections(text: str) -> dict[str, str]:
    """{version: what changed} of a changelog whose headings are "## 0.1.0 - 2026-11-30"."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        heading.split()[0].strip("[]"): body.strip() + "\n"
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def main(arguments: list[str]) -> None:
    """Print the section of the version that is named, with or without its v."""
    found = sections(CHANGELOG.read_text(encoding="utf-8"))
    version = arguments[0].removeprefix("v") if arguments else UNRELEASED
    if version not in found:
        raise SystemExit(
            f"CHANGELOG.md has no section {version!r}; expected one of {', '.join(found)}: add it"
        )
    print(found[version], end="")


if __name__ == "__main__":
    main(sys.argv[1:])
