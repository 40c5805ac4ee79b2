"""Are the libraries that read a model's files safe with files of strangers? `check_versions`.

Older versions run code that is hidden in a model's files, whatever the caller asked for. The
requirements of this package rule them out, but an environment can be changed after it was
installed, so each load looks again.

    check_versions()                    # raises PipelineError; nothing where all are new enough
    unsafe_versions()                   # ["transformers 5.2.0 is older than 5.3: ..."]

Sources: the advisories of the named CVEs (https://nvd.nist.gov/vuln/detail/CVE-2026-4372 and so
on), and the release notes of diffusers 0.38.
"""

import importlib.metadata
from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from sensitivity.errors import PipelineError

SAFE_FROM = {
    "torch": ("2.10", "a crafted checkpoint runs code in spite of weights_only (CVE-2026-24747)"),
    "transformers": (
        "5.3",
        "a crafted config runs code in spite of trust_remote_code=False (CVE-2026-4372,"
        " CVE-2026-5241)",
    ),
    "diffusers": ("0.38", "a crafted pipeline runs code of its own"),
}
"""{package: (first version that is safe, what the ones before do)}."""


def unsafe_versions() -> list[str]:
    """What is installed and too old, with the reason. A package that is missing is not unsafe."""
    found = []
    for package, (first, why) in SAFE_FROM.items():
        try:
            installed = importlib.metadata.version(package)
            if Version(installed).release < Version(first).release:
                found.append(f"{package} {installed} is older than {first}: {why}")
        except (importlib.metadata.PackageNotFoundError, InvalidVersion):
            continue
    return found


def check_versions() -> None:
    """Raise PipelineError where a library is too old to read a model's files."""
    unsafe = unsafe_versions()
    if unsafe:
        raise PipelineError(
            f"{'; '.join(unsafe)}; expected versions that read a model's files as data: upgrade"
            f" them (`{upgrade_command(unsafe)}`)"
        )


def upgrade_command(unsafe: Sequence[str]) -> str:
    """The command that mends what `unsafe_versions` found."""
    return f"pip install --upgrade {' '.join(text.partition(' ')[0] for text in unsafe)}"
