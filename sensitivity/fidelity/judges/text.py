"""Can the words still be read that a prompt asks for? The share of them that is lost; 0 to 1, lower
is better.

Words that a prompt asks for stand in quotation marks: a sign that says "OPEN DAILY". They are read
in the picture, and in bf16's, by OCR (`rapidocr`, whose models come in its wheel). For each,

    unread(picture) = edits that turn what was asked for into a part of what was read / its length
    lost            = max(0, unread(picture) - unread(reference))

so a prompt costs nothing where bf16's picture has no such words either: then nothing was lost. The
price of that: where bf16 writes badly, nothing can be lost. Case, spaces and punctuation do not
count. Of a clip, its first, middle and last frames are read.

What it sees that LPIPS does not: whether words can be read. Of drawn signs, one exchanged letter
loses 12 % of the words and has an LPIPS of 0.08 with letters of 30 pixels and 0.013 with letters of
13. Blur, noise, a tint and blocks of the same LPIPS lose nothing (`benchmarks/judges.py`).

Sources: PP-OCRv6 models of PaddleOCR (Apache 2.0), run by onnxruntime on the CPU; `legibility` has
the edit distance.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from rapidocr import RapidOCR
from torch import Tensor

from sensitivity.fidelity.judges._base import Judge, as_arrays
from sensitivity.fidelity.judges.legibility import asked_words, unread_share


class Text(Judge):
    """Legibility of the words that prompts ask for."""

    name = "text"

    def __init__(self) -> None:
        self.made_by = f"rapidocr {version('rapidocr')}"
        self.reader = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
            }
        )

    def __call__(self, pictures: Tensor, references: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `Judge`."""
        rows = zip(pictures, references, prompts, strict=True)
        return torch.tensor(
            [
                max(0.0, self._unread(picture, prompt) - self._unread(reference, prompt))
                for picture, reference, prompt in rows
            ]
        )

    def _unread(self, picture: Tensor, prompt: str) -> float:
        """Share of the words that cannot be read in a picture, or on average in a clip's frames."""
        if picture.dim() == 3:
            return unread_share(asked_words(prompt), self.read(picture))
        at = sorted({0, len(picture) // 2, len(picture) - 1})
        return float(np.mean([self._unread(picture[t], prompt) for t in at]))

    def read(self, picture: Tensor) -> str:
        """All that OCR reads in a picture (3, H, W) fp32 in [0, 1]; its lines from the top."""
        array = (as_arrays(picture[None])[0] * 255).round().astype(np.uint8)
        found: Any = self.reader(np.ascontiguousarray(array[..., ::-1]))  # it takes BGR
        return " ".join(found.txts or ())
