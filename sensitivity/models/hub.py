"""Does the Hugging Face Hub answer, and how are diffusers and transformers kept quiet?

Both questions come up before a library loads anything. Nothing is loaded here.

    if hub_answers():
        with quiet():
            DiffusionPipeline.from_pretrained(name)     # no progress bars, no notices
"""

import logging
import threading
import warnings
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

HUB_TIMEOUT_S = 8.0


def hub_answers() -> bool:
    """Whether the Hugging Face Hub answers anything at all within `HUB_TIMEOUT_S`.

    Without this question the loaders would retry for many minutes where there is no network.
    """
    from huggingface_hub import constants

    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
        except HTTPError:
            pass  # a refusal is an answer
        except (OSError, ValueError):
            return
        answered.set()

    if not constants.HF_HUB_OFFLINE:
        # in a thread, because looking up a host's name has no time limit of its own
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(HUB_TIMEOUT_S)
    return answered.is_set()


def hub_cache() -> Path:
    """Where models of the Hub are kept on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def has_token() -> bool:
    """Whether this machine has a token of the Hub, which gated models need."""
    from huggingface_hub import get_token

    return bool(get_token())


def is_offline() -> bool:
    """Whether nothing may be asked of the Hub (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


class quiet:  # noqa: N801 - reads as a statement: with quiet()
    """A context without the progress bars and notices of diffusers, transformers and torch."""

    def __enter__(self) -> None:
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        self.loggers = (diffusers_logging, transformers_logging)
        self.levels = [library.get_verbosity() for library in self.loggers]
        # to set a level costs a walk over all loggers, so it is set only where it is another
        for library, level in zip(self.loggers, self.levels, strict=True):
            if level != logging.ERROR:
                library.set_verbosity_error()
            library.disable_progress_bar()
        self.catcher = warnings.catch_warnings()
        self.catcher.__enter__()
        warnings.simplefilter("ignore")
        self.root = logging.getLogger("torch.utils._pytree")
        if self.root.level != logging.ERROR:
            self.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.catcher.__exit__(None, None, None)
        for library, level in zip(self.loggers, self.levels, strict=True):
            if level != logging.ERROR:
                library.set_verbosity(level)
