"""How far do a runtime's own roundings move the pictures of one skip-list? `native_rounding`.

The noise floor says how far bf16 is from bf16. It is far too small a floor for quantized pictures:
runtimes that serve a model quantize activations and round products a little differently from one
another and from what a search draws (`formats.served`), by native kernels or by emulation, and a
quantized model is less steady than bf16. So one list is drawn in the search's arithmetic and in
another one, each by the kernels that the device has for it. Two numbers are stated beside the noise
floor: the LPIPS between the two (`lpips`), and by what share the list's own typical LPIPS from bf16
changes (`change`). Two skip-lists whose LPIPS differs by a smaller share are not told apart.

The share is the floor for comparisons, since both lists run on the same kernels: their pictures
move by `lpips`, mostly in directions that bring them neither nearer to bf16 nor farther from it.
Typical is the geometric mean over prompts (`fidelity.typical`), which a single picture that flips
does not rule.

Method. The list is the rule of thumb's, which every search scores: it is what is served today, and
its damage is of the size of what is chosen. (Where everything is quantized, pictures flip into
others, and the mean is about those.) The first search prompts are drawn, `PICTURES` or a little
more. It costs about two trials, once for each study, and the result is a fact of the store.

    found = native_rounding(evaluator, store, candidates, compute=True)
    found.lpips, found.change, found.arithmetic        # 0.015, 0.04, Arithmetic.MSLK

What it does not do: change a choice, or say which of the arithmetics is nearer to a kernel.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.words import first_line
from sensitivity.errors import FormatError, MeasurementError, PatternError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import Score, score_of
from sensitivity.fidelity.typical import log_damages
from sensitivity.models.generating import digest_of
from sensitivity.models.media import Media
from sensitivity.search.attempts import attempt, counting_deaths
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store, assignment_key

PICTURES = 8
"""Search prompts that are drawn; whole batches, so a few more may be."""
SKIP_LIST = "rule of thumb"
PAIRS = ("between", "other from bf16", "own from bf16")
"""What is compared: both arithmetics, and each with bf16."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeRounding:
    """One skip-list in two arithmetics.

    Attributes:
        lpips: the mean LPIPS between its pictures in the one and in the other.
        change: the share by which its typical LPIPS from bf16 differs, 0.1 for a tenth.
        arithmetic: the other one.
        prompts: how many.
    """

    lpips: float
    change: float
    arithmetic: Arithmetic
    prompts: int


def native_rounding(
    evaluator: Evaluator,
    store: Store,
    candidates: Candidates,
    *,
    compute: bool,
    say: Callable[[str], None] = lambda _text: None,
) -> NativeRounding | None:
    """From the store, else measured, which is said, and kept.

    None where no arithmetic differs (MXFP8 alone), where the rule of thumb quantizes nothing, where
    it is not known and `compute` is off, or where the run fails for good (`search.attempts`); the
    log says why.

    Raises:
        OutputError: the disk is full.
        StoreError: the database cannot be read.
    """
    formats = candidates.decode(candidates.canonical(candidates.rule_of_thumb))
    other = against(set(quantized(formats).values()), evaluator.arithmetic)
    if other is None:
        return None
    keys = [_key(evaluator, other, pair) for pair in PAIRS]
    assignment = assignment_key(formats)
    scores = [score for key in keys if (score := store.find_score(key, assignment)) is not None]
    if len(scores) < len(PAIRS):
        if not compute:
            return None

        def noted(text: str) -> None:
            say(f"native rounding: {text}")

        noted(f"drawing the {SKIP_LIST} with `arithmetic` {other}")
        begun = time.monotonic()
        try:
            with counting_deaths(store, keys[0], assignment, noted):
                scores = attempt(
                    lambda: _compare(evaluator, formats, other), evaluator, noted=noted
                )
        except (MeasurementError, FormatError, PatternError) as error:
            # It stands beside the result, and does not decide it.
            log.warning("native rounding is not known: %s", first_line(error))
            evaluator.recover()
            return None
        seconds = time.monotonic() - begun
        for key, score in zip(keys, scores, strict=True):
            store.save_score(key, assignment, score, seconds=seconds)
    between, *from_bf16 = scores
    return NativeRounding(
        lpips=between.mean,
        change=relative_change(*from_bf16, floor=evaluator.noise_floor),
        arithmetic=other,
        prompts=len(between.per_prompt),
    )


def relative_change(first: Score, second: Score, *, floor: float | None) -> float:
    """The share by which two typical LPIPS over the same prompts differ: 0.25 for 4 and 5.

    Args:
        first, second: scores of the same prompts.
        floor: the noise floor; None: not measured.
    """
    logs = [log_damages(score.per_prompt, floor).mean() for score in (first, second)]
    return float(np.expm1(abs(logs[0] - logs[1])))


def _key(evaluator: Evaluator, other: Arithmetic, pair: str) -> str:
    """The store's key of one of `PAIRS`."""
    key = {
        "native_rounding": evaluator.evaluation_key("search"),
        "against": other,
        "pictures": PICTURES,
    }
    return digest_of(key if pair == PAIRS[0] else key | {"pair": pair})


def against(formats: Collection[FormatName], own: Arithmetic) -> Arithmetic | None:
    """The arithmetic that a list is drawn in beside its own; None where nothing differs."""
    rounded = {name.plain for name in formats if not name.is_weight_only}  # activations at run time
    if FormatName.NVFP4 not in rounded and FormatName.FP8 not in rounded:
        return None
    if own is not Arithmetic.EAGER:
        return Arithmetic.EAGER
    return Arithmetic.COMPILED if FormatName.FP8 in rounded else Arithmetic.MSLK


def _compare(
    evaluator: Evaluator, formats: Mapping[str, FormatName], other: Arithmetic
) -> list[Score]:
    """LPIPS of `PAIRS`, with these formats."""

    def draw(arithmetic: Arithmetic) -> Media:
        evaluator.switch.arithmetic = arithmetic
        try:
            return evaluator.generate(
                formats, "search", keep_going=lambda media: len(media) < PICTURES
            )
        finally:
            evaluator.switch.arithmetic = evaluator.arithmetic

    theirs, own, bf16 = draw(other), draw(evaluator.arithmetic), evaluator.references("search")
    return [
        score_of(
            evaluator.comparison.lpips(*pair)[0], net=evaluator.distance.name, noise_floor=None
        )
        for pair in ((theirs, own), (theirs, bf16), (own, bf16))
    ]
