"""What is settled before a library loads anything: does the Hub answer, and do diffusers and
transformers keep quiet?

    with quiet():
        DiffusionPipeline.from_pretrained(folder)       # no bars, no notices

It loads nothing itself.
"""

import logging
import threading
import warnings
from urllib.error import HTTPError
from urllib.request import Request, urlopen

HUB_TIMEOUT_S = 8.0


def hub_answers() -> bool:
    """Whether the Hugging Face Hub answers anything at all in `HUB_TIMEOUT_S`.

    The loaders' own retries take many minutes where it does not.
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
        asking = threading.Thread(
            target=ask, daemon=True
        )  # looking up a name has no time limit of its own
        asking.start()
        asking.join(HUB_TIMEOUT_S)
    return answered.is_set()


class quiet:  # noqa: N801 - reads as a statement: with quiet()
    """Loading prints bars and notices of three libraries; none of them is about the user's model."""

    def __enter__(self) -> None:
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        self.loggers = (diffusers_logging, transformers_logging)
        self.levels = [library.get_verbosity() for library in self.loggers]
        for library in self.loggers:
            library.set_verbosity_error()
            library.disable_progress_bar()
        self.catcher = warnings.catch_warnings()
        self.catcher.__enter__()
        warnings.simplefilter("ignore")
        self.root = logging.getLogger("torch.utils._pytree")
        self.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.catcher.__exit__(None, None, None)
        for library, level in zip(self.loggers, self.levels, strict=True):
            library.set_verbosity(level)
