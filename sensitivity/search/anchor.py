"""How large is LPIPS where the picture is another one? `another_seed`: an anchor for a study.

A LPIPS of 0.02 says little by itself. bf16's own pictures of the same prompts with another seed are
other pictures, as good as the first, and their LPIPS is a number of the same net, model and
prompts to compare with. The rule for flips rests on it (`fidelity.flips`).

    another_seed(evaluator, store, compute=True)        # 0.43

Method. A few search prompts are drawn by bf16 with another seed (`Evaluator.other_seeds`), once for
each study. The result is a fact of the store, so a choice that is made again has the same.
"""

import logging
import time
from collections.abc import Callable

from sensitivity.core.words import first_line
from sensitivity.errors import MeasurementError, PipelineError
from sensitivity.fidelity.evaluator import OTHER_PROMPTS, Evaluator
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.typical import typical
from sensitivity.models.generating import digest_of
from sensitivity.search.attempts import attempt
from sensitivity.search.store import Store, assignment_key

log = logging.getLogger(__name__)


def another_seed(
    evaluator: Evaluator,
    store: Store,
    *,
    compute: bool,
    say: Callable[[str], None] = lambda _text: None,
) -> float | None:
    """Typical LPIPS of bf16 with another seed: from the store, else drawn, which is said, and kept.

    None where it is not known and `compute` is off, where pictures do not depend on the seed, or
    where drawing them fails for good (`search.attempts`); the log says why.

    Raises:
        OutputError: the disk is full.
        StoreError: the database cannot be read.
    """
    key = digest_of({"another_seed": evaluator.evaluation_key("search"), "prompts": OTHER_PROMPTS})
    known = store.find_score(key, assignment_key({}))
    if known is None and compute:
        say("drawing a few pictures of bf16 with another seed, to compare with")
        begun = time.monotonic()
        try:
            values = attempt(
                lambda: evaluator.other_seeds,
                evaluator,
                noted=lambda text: say(f"another seed: {text}"),
            )
        except (MeasurementError, PipelineError) as error:
            # It stands beside the result, and does not decide it.
            log.warning("the LPIPS of another seed is not known: %s", first_line(error))
            evaluator.recover()
            return None
        known = Score(
            net=evaluator.distance.name,
            mean=sum(values) / len(values),
            per_prompt=tuple(values),
            noise_floor=None,
        )
        store.save_score(key, assignment_key({}), known, seconds=time.monotonic() - begun)
    return None if known is None else typical(known.per_prompt, None) or None
