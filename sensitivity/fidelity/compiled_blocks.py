"""Are pictures generated with the denoiser's blocks compiled? `CompiledBlocks`.

    blocks = CompiledBlocks(denoiser, wanted=None, device="cuda")
    media = blocks.attempt(generate, given_up=forget_what_was_generated)
    with blocks.running():
        generate()

Compiled graphs are kept for the next time. Where torch cannot compile a block, pictures are
generated eagerly from then on, and a warning says so.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from sensitivity.core.words import first_line
from sensitivity.models.compiled_regions import CompiledRegions, is_compile_error

WORTH_COMPILING = 10**9
"""Parameters of a denoiser from which on compiling its blocks pays for itself."""
Made = TypeVar("Made")
log = logging.getLogger(__name__)


class CompiledBlocks:
    """Compiles a denoiser's blocks, or leaves them.

    Args:
        denoiser: whose blocks.
        wanted: whether they are compiled. None means: on a GPU, for denoisers of `WORTH_COMPILING`
            parameters or more.
        device: where it runs.

    Attributes:
        on: whether they are compiled.
    """

    def __init__(self, denoiser: nn.Module, *, wanted: bool | None, device: str) -> None:
        large = sum(parameter.numel() for parameter in denoiser.parameters()) >= WORTH_COMPILING
        self.on = large and device.startswith("cuda") if wanted is None else wanted
        self._denoiser = denoiser
        self._regions: CompiledRegions | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context in which the blocks run compiled if they are to."""
        if not self.on:
            yield
            return
        if self._regions is None:
            self._regions = CompiledRegions(self._denoiser)
        with self._regions:
            yield

    def attempt(self, run: Callable[[], Made], *, given_up: Callable[[], None]) -> Made:
        """What `run` gives; where torch cannot compile, what it gives eagerly.

        Args:
            run: enters `running`.
            given_up: called before it runs again, eagerly.
        """
        try:
            return run()
        except Exception as error:
            if not (self.on and is_compile_error(error)):
                raise
            log.warning(
                "the denoiser's blocks are not compiled, since torch cannot (%s: %s): pictures"
                " take longer",
                type(error).__name__,
                first_line(error),
            )
        self.on, self._regions = False, None
        given_up()
        return run()
