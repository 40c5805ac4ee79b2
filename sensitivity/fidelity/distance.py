"""What is a distance between pictures? The base class `Distance`.

A distance takes pictures and their references and gives one number for each picture: 0 if the two
are equal, and more the more they differ. `fidelity.lpips` has the one that studies use.

    class Brightness(Distance):
        name, key = "brightness", {"metric": "brightness"}

        def __call__(self, pictures, references):
            return (pictures - references).mean((1, 2, 3)).abs()
"""

import abc

from torch import Tensor


class Distance(abc.ABC):
    """A perceptual distance.

    Attributes:
        name: What a recipe calls it.
        key: All that decides its values, for cache keys.
        whole_clips: Whether it takes clips (B, F, 3, H, W) too, instead of their frames.
    """

    name: str
    key: dict[str, str]
    whole_clips: bool = False

    @abc.abstractmethod
    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        """Compare each picture with its reference.

        Args:
            pictures: (B, 3, H, W) in [-1, 1].
            references: The same shape and range.

        Returns:
            (B,) fp32 on the CPU, each at least 0.
        """
