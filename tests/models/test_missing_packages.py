"""A package that a pipeline's code lacks is named as it is installed."""

from collections.abc import Callable

import pytest
from diffusers.utils import requires_backends

from sensitivity.errors import MissingPackageError
from sensitivity.models.missing_packages import lacks_package, missing_package

MODULE = {"__name__": "diffusers.pipelines.toy"}


def raised(call: Callable[[], object]) -> BaseException:
    """What a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value


def in_diffusers(code: str) -> Callable[[], object]:
    """Code that runs as that of one of diffusers' modules."""
    return lambda: exec(code, dict(MODULE))


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (in_diffusers("no_such_module.fix_text('a')"), "no-such-module"),
        (in_diffusers("import cv2_missing.gapi"), "cv2-missing"),
        (in_diffusers("raise ImportError('install it with `pip install  -U bs4[x]`')"), "bs4[x]"),
        (in_diffusers("raise ImportError('A requires the PyAv library but it was not')"), "PyAv"),
        (lambda: requires_backends(object(), "torchsde"), "torchsde"),
        (in_diffusers("x = y\ny = 1\n1 / 0"), "y"),
        (in_diffusers("def f():\n    print(x)\n    x = 1\nf()"), None),
        (in_diffusers("json.dumps(1)"), None),
        (lambda: eval("no_such_module", {"__name__": "elsewhere"}), None),
        (in_diffusers("raise ValueError('pip install it')"), None),
    ],
)
def test_the_package_is_named(call: Callable[[], object], package: str | None) -> None:
    """A module that was never imported counts only in diffusers and transformers, where imports are
    optional, and only if it is not there; other errors name none.
    """
    assert missing_package(raised(call)) == package


def test_a_cause_is_looked_at() -> None:
    """An error that wraps an ImportError is about the same package."""
    code = "try:\n    import gone_missing\nexcept ImportError as e:\n    raise OSError from e"
    assert missing_package(raised(in_diffusers(code))) == "gone-missing"


def test_the_message_says_what_to_install() -> None:
    """With the package's name as it is installed where that differs."""
    error = lacks_package("WanPipeline", ModuleNotFoundError("no bs4", name="bs4"))
    assert isinstance(error, MissingPackageError)
    assert "WanPipeline needs the package beautifulsoup4, which is not installed" in str(error)
    assert "`pip install beautifulsoup4`" in str(error)
