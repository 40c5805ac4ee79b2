"""Libraries that run what is hidden in a model's files are not used to load one."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from sensitivity.errors import PipelineError
from sensitivity.models.loading import load_pipeline
from sensitivity.models.safe_versions import SAFE_FROM, check_versions, unsafe_versions
from sensitivity.spec.loading import resolve_spec

ROOT = Path(__file__).parents[2]


def test_what_is_installed_here_is_safe() -> None:
    """The versions of the development environment pass."""
    assert unsafe_versions() == []
    check_versions()


@pytest.mark.parametrize(
    ("package", "version", "is_safe"),
    [
        ("transformers", "5.2.0", False),
        ("transformers", "5.3.0", True),
        ("torch", "2.9.1+cu128", False),
        ("torch", "2.10.0+cu130", True),
        ("torch", "2.10.0.dev20251201", True),
        ("diffusers", "0.37.1", False),
        ("diffusers", "1.0", True),
        ("torch", "built by hand", True),
    ],
)
def test_older_versions_are_refused_before_a_file_is_read(
    package: str, version: str, is_safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the package, both versions and the reason; nothing is loaded."""
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: version if name == package else real(name)
    )
    if is_safe:
        check_versions()
        return
    with pytest.raises(
        PipelineError, match=rf"{package} .* is older than .* runs code .*--upgrade {package}`"
    ):
        load_pipeline(resolve_spec("tiny-flux"), device="cpu")


def test_the_requirements_rule_them_out_too() -> None:
    """No version that pyproject.toml allows is unsafe."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = [Requirement(line) for line in tomllib.load(file)["project"]["dependencies"]]
    least = {
        requirement.name: min(Version(part.version) for part in requirement.specifier)
        for requirement in wanted
        if requirement.name in SAFE_FROM
    }
    assert set(least) == set(SAFE_FROM)
    assert all(least[name] >= Version(first) for name, (first, _) in SAFE_FROM.items())
