"""What if the database does not answer for a while? `patient` asks again until it does.

A server is restarted, moved or cut off for a minute, and a search takes hours. So a call that needs
the database is made again, at growing intervals, while it raises LostDatabaseError. Other errors
pass at once: they would come again.

    patient(lambda: log.read_new(), noted=events.noted)

The call must be one that may be made twice: a transaction whose answer was lost may have been
committed. A result that was computed is written to disk meanwhile (`search.spool`).
"""

import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sensitivity.core.words import duration
from sensitivity.errors import LostDatabaseError, StoreError

T = TypeVar("T")

PATIENCE_S = 600.0
"""How long a database may be away. A restart takes seconds and a fail-over of a managed PostgreSQL
one to two minutes; after ten minutes a person must look, and a GPU that waits costs money.
"""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 15.0
"""The first pause between two calls, which doubles up to the longest. Each is shortened at random
by up to a half, so that hundreds of workers do not come back at the same instant.
"""

log = logging.getLogger(__name__)


class UnreachableError(StoreError):
    """The database did not answer for as long as was waited; what follows is in the message."""


def patient(
    call: Callable[[], T],
    *,
    noted: Callable[[str], Any] = lambda _text: None,
    patience_s: float | None = None,
    then: str = "run the same command when it is back, it goes on",
) -> T:
    """The result of a call that is made again while the database does not answer.

    Args:
        call: is made at least once, and may be made many times.
        noted: called with a text when the wait begins, and when it ends.
        patience_s: seconds after the first failure that are waited at most; None: `PATIENCE_S`.
        then: what to do where the database does not come back, as the message ends.

    Raises:
        UnreachableError: it raised LostDatabaseError for `patience_s`.
    """
    limit_s = PATIENCE_S if patience_s is None else patience_s
    began: float | None = None
    wait_s = FIRST_WAIT_S
    while True:
        try:
            result = call()
        except LostDatabaseError as error:
            now = time.monotonic()
            what = str(error).partition("; expected")[0]
            if began is None:
                began = now
                log.info("the database does not answer", exc_info=True)
                noted(f"{what}; it is asked again for up to {duration(limit_s)}")
            left_s = limit_s - (now - began)
            if left_s <= 0:
                raise UnreachableError(
                    f"{what}; expected an answer within {duration(limit_s)}: {then}"
                ) from error
        else:
            if began is not None:
                noted(f"the database answers again after {duration(time.monotonic() - began)}")
            return result
        pause_s = wait_s * random.uniform(0.5, 1.0)
        time.sleep(min(pause_s, left_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
