"""The contract of a reader: a text in one consumer's form goes in, a `ConsumerList` comes out."""

from abc import ABC, abstractmethod
from typing import ClassVar

from sensitivity.consumers.lists import ConsumerList


class Reader(ABC):
    """Reads texts in one consumer's form.

    Subclasses give `name`, `description` and `read`, and `looks_like` where texts of the form can
    be recognised.
    """

    name: ClassVar[str]
    """The name of the form, a key of `READERS`."""

    description: ClassVar[str]
    """The form and how it is matched, in one line for help and messages."""

    @abstractmethod
    def read(self, text: str) -> ConsumerList:
        """The list that a text holds.

        Raises:
            PatternError: the text is not in this form. The message says what was expected, and on
                which line where that is known.
        """

    def looks_like(self, text: str) -> bool:
        """Whether a text is in this form and in no other known one."""
        del text
        return False
