"""How does a function of the user's become a judge? `OwnJudge`, from "module:function".

    # my_metrics.py, in the folder where the command runs, or installed
    def darkest(pictures, references):
        \"\"\"Difference of the darkest value.\"\"\"
        return (pictures.amin((1, 2, 3)) - references.amin((1, 2, 3))).abs()

    OwnJudge("my_metrics:darkest")(pictures, references, prompts)

What the function is given, and what it gives:

- `pictures`: (B, 3, H, W) fp32 RGB in [0, 1], on the CPU; of clips (B, F, 3, H, W).
- `references`: bf16's, the same shape and range, for the same prompts and seeds.
- `prompts`: a list of B texts, if it has a parameter of that name.
- It returns B finite numbers: a tensor or an array of shape (B,), or a list. Lower is better,
  unless the function has an attribute `higher_is_better` that is true. An attribute `unit` is
  printed.

It may be called with any number of prompts at a time, so each number must depend on its own picture
only. It may be anything that can be called; a class is made without arguments first.

Every fault of the function becomes a `UserError` that says what it did. The
sha256 of the file that defines it stands for the function in keys, so that values of an earlier
edition are not taken for its own.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensitivity.core.user_modules import import_user_module
from sensitivity.core.words import first_line, printable
from sensitivity.errors import UserError
from sensitivity.fidelity.judges._base import Judge

PROBE_SIZE = 128
"""Height and width of the pictures that a function is tried with."""
PROBE_FRAMES = 9


class OwnJudge(Judge):
    """A judge that calls a function of the user's (see the module).

    Args:
        name: "module:function".
        asked_by: The field of a request that named it, for messages.

    Attributes:
        digest: sha256 of the file that defines the function.

    Raises:
        UserError: The module cannot be imported, or has no such function.
    """

    def __init__(self, name: str, *, asked_by: str = "judges") -> None:
        self.name, self.asked_by = name, asked_by
        self.function = _load(name, asked_by)
        self.higher_is_better = bool(getattr(self.function, "higher_is_better", False))
        self.unit = printable(str(getattr(self.function, "unit", "")))[:16]
        self.takes_prompts = "prompts" in _parameters(self.function)
        self.digest = _digest(self.function, name)
        self.made_by = f"sha256:{self.digest[:16]}"

    @torch.no_grad()
    def __call__(self, pictures: Tensor, references: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `Judge`.

        Raises:
            UserError: The function fails, or does not return one finite number a prompt.
        """
        extra = {"prompts": list(prompts)} if self.takes_prompts else {}
        try:
            found = self.function(pictures, references, **extra)
        except Exception as error:
            raise self._fault(
                f"failed on pictures of shape {tuple(pictures.shape)}"
                f" ({type(error).__name__}: {first_line(error)})"
            ) from error
        return self._numbers(found, len(pictures), prompts)

    def try_out(self, *, is_video: bool) -> None:
        """Call the function with two small pictures, or clips, of noise.

        Raises:
            UserError: As `__call__`.
        """
        pictures, references = probe(is_video=is_video)
        self(pictures, references, ["a probe"] * len(pictures))

    def _numbers(self, found: Any, count: int, prompts: Sequence[str]) -> Tensor:
        """What the function returned, as (B,) fp64."""
        try:
            plain = found.detach().double().cpu().numpy() if isinstance(found, Tensor) else found
            values = torch.from_numpy(np.array(plain, dtype=np.float64))
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._fault(
                f"returned {_described(found)}, which is no numbers ({first_line(error)})"
            ) from None
        if values.shape != (count,):
            raise self._fault(
                f"returned {_described(found)} for {count} pictures, of shape"
                f" {tuple(values.shape)} instead of ({count},)"
            )
        broken = [i for i, good in enumerate(values.isfinite().tolist()) if not good]
        if broken:
            shown = printable(prompts[broken[0]])[:80]
            raise self._fault(f"gave {float(values[broken[0]])} for the prompt {shown!r}")
        return values

    def _fault(self, what: str) -> UserError:
        return UserError(
            f"`{self.asked_by}`: {self.name} {what}; expected one finite number for each picture,"
            " as a tensor, an array or a list of shape (B,), from pictures and references of shape"
            " (B, 3, H, W), fp32 in [0, 1], or clips (B, F, 3, H, W): mend it and run the same"
            " command again, what was searched is kept"
        )


def probe(*, is_video: bool) -> tuple[Tensor, Tensor]:
    """Two pictures of noise, or clips, and references that are a little different."""
    shape = (2, *[PROBE_FRAMES] * is_video, 3, PROBE_SIZE, PROBE_SIZE)
    noise = torch.Generator().manual_seed(0)
    references = torch.rand(shape, generator=noise)
    return (references + 0.1 * torch.randn(shape, generator=noise)).clamp(0, 1), references


def _load(name: str, asked_by: str) -> Callable[..., Any]:
    """The function of "module:function"."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(
            f"`{asked_by}` names {printable(name)!r}; expected module:function, such as"
            " my_metrics:darkest: correct it"
        )
    try:
        found: Any = import_user_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        found = found() if inspect.isclass(found) else found
    except Exception as error:  # a module of the user's may raise anything
        raise UserError(
            f"`{asked_by}`: {printable(name)} cannot be loaded ({type(error).__name__}:"
            f" {first_line(error)}); expected a function that Python can import from the current"
            " folder or from an installed package: correct the name, or mend the module"
        ) from error
    if not callable(found):
        raise UserError(
            f"`{asked_by}`: {printable(name)} is {_described(found)}; expected a function of"
            " pictures and references: name one"
        )
    function: Callable[..., Any] = found
    return function


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some functions in C have no signature
        return set()


def _digest(function: Callable[..., Any], name: str) -> str:
    """sha256 of the file that defines a function; of its name where there is no file."""
    for part in (inspect.unwrap(function), type(function)):
        try:
            path = inspect.getsourcefile(part)
        except TypeError:
            continue
        if path is not None and Path(path).is_file():
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return hashlib.sha256(name.encode()).hexdigest()


def _described(found: Any) -> str:
    return f"a {type(found).__name__}"
