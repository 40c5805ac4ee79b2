"""Which judges come with `sensitivity`, and which of them can run here? `KNOWN`, `why_missing`.

    KNOWN["ssim"].higher_is_better              # True
    why_missing("flip")                         # "" where flip-evaluator is installed
    judge = make_judge("flip", frames_per_second=24.0, device="cpu")

Their packages come with the extra `judges`, and are imported by `make_judge` only.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensitivity.fidelity.judges._base import Judge
from sensitivity.fidelity.judges.legibility import asked_words

INSTALL = "pip install scikit-image flip-evaluator cvvdp rapidocr onnxruntime"
"""Installs the packages of all judges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of a judge before its package is imported.

    Attributes:
        packages: {package that is installed: module that is imported}.
        higher_is_better: Whether a larger value is better.
        sees: What it looks for, in a few words.
        clips_only: Whether it judges nothing but clips.
        words_only: Whether it judges nothing but prompts that ask for words.
    """

    packages: dict[str, str]
    sees: str
    higher_is_better: bool = False
    clips_only: bool = False
    words_only: bool = False

    @property
    def expected(self) -> str:
        """What it needs to see, for messages; "" if it judges everything."""
        if self.clips_only:
            return "expected a model that makes clips"
        return 'expected held-out prompts that ask for words, as: a sign that says "OPEN"'

    def covers(self, prompts: Sequence[str], *, is_video: bool) -> tuple[int, ...]:
        """Indices of the prompts that it can judge."""
        if self.clips_only and not is_video:
            return ()
        return tuple(
            i for i, prompt in enumerate(prompts) if not self.words_only or asked_words(prompt)
        )


KNOWN = {
    "psnr": Known(
        packages={"scikit-image": "skimage"}, higher_is_better=True, sees="mean squared error, dB"
    ),
    "ssim": Known(
        packages={"scikit-image": "skimage"},
        higher_is_better=True,
        sees="structure, place by place",
    ),
    "flip": Known(packages={"flip-evaluator": "flip_evaluator"}, sees="visible errors, colour too"),
    "cvvdp": Known(
        packages={"cvvdp": "pycvvdp"},
        higher_is_better=True,
        clips_only=True,
        sees="visible errors of clips, flicker too, JOD",
    ),
    "text": Known(
        packages={"rapidocr": "rapidocr", "onnxruntime": "onnxruntime"},
        words_only=True,
        sees="words that prompts ask for and OCR no longer reads",
    ),
}
"""{judge: what is known of it}, in the order in which they are shown."""


def why_missing(name: str) -> str:
    """Which package a judge of `KNOWN` lacks here; "" if none. Nothing is imported."""
    lacking = [
        package
        for package, module in KNOWN[name].packages.items()
        if importlib.util.find_spec(module) is None
    ]
    return f"{' and '.join(lacking)} not installed" if lacking else ""


def make_judge(name: str, *, frames_per_second: float, device: str) -> Judge:
    """A judge of `KNOWN`. Whatever its package raises when it is imported passes.

    Args:
        name: Which.
        frames_per_second: Of the clips that it will see.
        device: Where judges run that run on a GPU.
    """
    makers: dict[str, Callable[[], Judge]] = {
        "psnr": _psnr,
        "ssim": _ssim,
        "flip": _flip,
        "cvvdp": lambda: _cvvdp(frames_per_second, device),
        "text": _text,
    }
    return makers[name]()


def _psnr() -> Judge:
    from sensitivity.fidelity.judges.psnr import Psnr

    return Psnr()


def _ssim() -> Judge:
    from sensitivity.fidelity.judges.ssim import Ssim

    return Ssim()


def _flip() -> Judge:
    from sensitivity.fidelity.judges.flip import Flip

    return Flip()


def _cvvdp(frames_per_second: float, device: str) -> Judge:
    from sensitivity.fidelity.judges.cvvdp import Cvvdp

    return Cvvdp(frames_per_second=frames_per_second, device=device)


def _text() -> Judge:
    from sensitivity.fidelity.judges.text import Text

    return Text()
