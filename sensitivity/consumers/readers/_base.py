"""The contract of a reader: a consumer's text in, the list on a model out."""

from abc import ABC, abstractmethod
from typing import ClassVar

from sensitivity.consumers.lists import ConsumerList


class Reader(ABC):
    """Reads texts in one consumer's form.

    Subclasses give `name`, `words` and `read`, and `looks_like` where the form is recognisable.
    """

    name: ClassVar[str]
    """The word after `--as`."""

    words: ClassVar[str]
    """One line for help and docs: the form, and how it is matched."""

    @abstractmethod
    def read(self, text: str) -> ConsumerList:
        """The list that a text holds.

        Raises:
            PatternError: the text is not in this form; the message says what is, and the line where
                it can.
        """

    def looks_like(self, text: str) -> bool:
        """Whether a text is in this form and in no other that is known."""
        del text
        return False
