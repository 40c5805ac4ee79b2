"""How does a function of the user's replace LPIPS? `OwnDistance`: a judge as the search's distance.

    distance = OwnDistance("my_metrics:darkest", is_video=False)
    distance.name, distance.key             # "my_metrics:darkest", and the sha256 of its file

A search multiplies, divides and takes logarithms of what it minimises, so not every judge can be
its objective: it must be a distance, which is 0 for equal pictures, never negative, and larger for
what is worse. `own` says what the function is given. Its name takes the place of the LPIPS net in
scores, tables and recipes.

Of clips, the function is given whole clips, and motion, which is made of LPIPS, is not computed.
"""

import torch
from torch import Tensor

from sensitivity.errors import UserError
from sensitivity.fidelity.distance import Distance
from sensitivity.fidelity.judges.own import OwnJudge, probe
from sensitivity.models.media import pictures_at_once

NEAR = 0.01
"""The most that equal pictures may have, relative to a noise of 10 %."""


class OwnDistance(Distance):
    """A judge of the user's as the distance that is searched by.

    Args:
        name: "module:function".
        is_video: Whether the study's model makes clips, for the first call.

    Raises:
        UserError: The function cannot be loaded, fails on small pictures, or is no distance.
    """

    whole_clips = True

    def __init__(self, name: str, *, is_video: bool) -> None:
        self.judge = OwnJudge(name, asked_by="objective")
        self.name = name
        self.key = {"objective": name, "source": self.judge.digest}
        if self.judge.higher_is_better:
            raise self._no_distance("has `higher_is_better`")
        if self.judge.takes_prompts:
            raise self._no_distance("takes prompts, which a distance is not given")
        pictures, references = probe(is_video=is_video)
        texts = ["a probe"] * len(pictures)
        apart = self.judge(pictures, references, texts)
        same = self.judge(references, references, texts)
        if float(apart.min()) < 0 or float(same.min()) < 0:
            raise self._no_distance(f"gave {min(float(apart.min()), float(same.min())):g}")
        if float(same.max()) > NEAR * float(apart.min()):
            raise self._no_distance(
                f"gave {float(same.max()):g} for equal pictures and {float(apart.min()):g} for"
                " different ones"
            )

    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `Distance`; both may also be clips (B, F, 3, H, W).

        A picture that is not finite has NaN.

        Raises:
            UserError: The function fails, or gives something other than numbers of 0 or more.
        """
        step = 1 if pictures.dim() == 5 else pictures_at_once(*pictures.shape[-2:])
        parts = []
        for start in range(0, len(pictures), step):
            chunk, reference = (x[start : start + step] for x in (pictures, references))
            good = chunk.flatten(1).isfinite().all(1)
            seen, wanted = _visible(chunk), _visible(reference)
            values = self.judge(seen, wanted, [""] * len(chunk)).float()
            if float(values.min()) < 0:
                raise self._no_distance(f"gave {float(values.min()):g}")
            parts.append(torch.where(good, values, torch.nan))
        return torch.cat(parts)

    def _no_distance(self, what: str) -> UserError:
        return UserError(
            f"`objective`: {self.name} {what}; expected a distance, which is 0 for equal pictures,"
            " more for different ones and never negative: mend it, or record it as one of the"
            " `judges` instead"
        )


def _visible(pictures: Tensor) -> Tensor:
    """Pictures or clips in [-1, 1] as a judge is given them; what is not finite is 0."""
    return ((pictures.float() + 1) / 2).nan_to_num(0.0).clamp(0, 1)
