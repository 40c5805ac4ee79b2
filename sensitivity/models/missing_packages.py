"""Which package is missing, when a pipeline's own code fails for the lack of it?

    missing_package(error)                              # "ftfy"
    raise lacks_package("WanPipeline", error)           # ... `pip install ftfy`

Some packages of diffusers' and transformers' classes are optional: ftfy, sentencepiece, protobuf,
tiktoken, opencv, imageio, peft, bs4 and others. A class that lacks one fails in one of three ways:
at its import, with a message of its own that says what to install, or later, with the NameError of
a module that was never imported.
"""

import importlib.util
import re
import sys
from types import FrameType, TracebackType

from sensitivity.core.words import first_line
from sensitivity.errors import MissingPackageError

DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "google": "protobuf",
    "mistral_common": "mistral-common",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""{package as it is imported: as it is installed}, where they differ."""
_INSTALL = re.compile(r"pip3?\s+install\s+(?:-{1,2}[\w-]+\s+)*([\w.\[\]-]*\w\]?)")
_REQUIRES = re.compile(
    r"requires (?:the )?[`'\"]?([A-Za-z][\w.-]*)[`'\"]? (?:library|package|backend)?"
    r" ?(?:but|to be installed|which is not installed)"
)
_OPTIONAL_IN = ("diffusers", "transformers")
"""Packages whose modules import others only where these are installed."""


def missing_package(error: BaseException) -> str | None:
    """The package for the lack of which a call failed, as it is installed; None for other errors.

    Args:
        error: what was raised. Its causes are looked at, too.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (found := _missing(current)) is not None:
            return found
        current = current.__cause__ or current.__context__
    return None


def lacks_package(pipeline: str, error: BaseException) -> MissingPackageError:
    """The error to raise for a pipeline that failed for the lack of a package.

    Args:
        pipeline: its class.
        error: what was raised.
    """
    package = missing_package(error)
    reason = f"{type(error).__name__}: {first_line(error, most=200)}"
    if package is None:
        return MissingPackageError(
            f"{pipeline} does not run here ({reason}); expected all packages that it uses to be"
            " installed: install the one that is named, or choose another pipeline"
        )
    return MissingPackageError(
        f"{pipeline} needs the package {package}, which is not installed ({reason}); expected the"
        f" packages that its code uses: `pip install {package}`"
    )


def _missing(error: BaseException) -> str | None:
    if isinstance(error, ImportError):
        named = _INSTALL.search(str(error)) or _REQUIRES.search(str(error))
        if named is not None:
            return named.group(1)
        if isinstance(error, ModuleNotFoundError) and error.name and not _is_there(error.name):
            return _distribution(error.name)
    if isinstance(error, NameError) and error.name and not isinstance(error, UnboundLocalError):
        is_absent = _is_optional(error.__traceback__) and not _is_there(error.name)
        return _distribution(error.name) if is_absent else None
    return None


def _is_optional(traceback: TracebackType | None) -> bool:
    """Whether an error was raised in a module whose imports are optional."""
    frame: FrameType | None = None
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
    module = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _OPTIONAL_IN


def _is_there(module: str) -> bool:
    top = module.partition(".")[0]
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _distribution(module: str) -> str:
    top = module.partition(".")[0]
    return DISTRIBUTIONS.get(top, top.replace("_", "-") if "_" in top else top)
