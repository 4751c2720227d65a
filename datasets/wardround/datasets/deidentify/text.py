"""Text that stays: which words may, and which values of this patient must not come back in it."""

import re
from functools import lru_cache
from importlib import resources

from pydicom._dicom_dict import DicomDictionary

_WORD = re.compile(r"[^\W_]+")
# Shorter values ("M", "CT", "001") would match by chance in places that name nobody.
_SHORTEST_PHRASE = 5
_SHORTEST_NAME = 3
_LONG = 8
_LONGEST_CODE = 16  # characters, of a CS value
_NUMBER = re.compile(r"\d{4}")


@lru_cache(maxsize=1)
def plain_words() -> frozenset[str]:
    """Return the words of anatomy and technique that `clean` leaves standing (lower case)."""
    text = resources.files(__package__).joinpath("words.txt").read_text("ascii")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


@lru_cache(maxsize=1)
def _common_words() -> frozenset[str]:
    names = (entry[2] for entry in DicomDictionary.values())
    return plain_words() | {word.casefold() for name in names for word in _WORD.findall(name)}


def clean(value: str) -> str:
    """Keep the plain words and the numbers of up to two digits in `value`, drop all others.

    An allow-list, since no list of names is complete: a word that is not known to be harmless
    goes. Punctuation becomes one space.
    """
    words = _WORD.findall(value)
    return " ".join(
        word
        for word in words
        if word.casefold() in plain_words() or (word.isdigit() and len(word) <= 2)
    )


def normal(value: str) -> str:
    """Return the words of `value` in lower case with one space between and around them."""
    return f" {' '.join(_WORD.findall(value.casefold()))} "


class Identity:
    """What identified the patient in one file: the values that were taken out of it.

    They are looked for in everything that stays, since people type a name into a comment and
    devices copy it into other attributes.
    """

    __slots__ = ("_descriptions", "_names", "_phrases", "_raw")

    def __init__(self) -> None:
        self._descriptions: set[str] = set()
        self._names: set[str] = set()
        self._phrases: set[str] = set()
        self._raw: set[bytes] = set()

    def add_name(self, value: str) -> None:
        """Remember a person's name: each part of it as a word, and the whole."""
        for word in _WORD.findall(value.casefold()):
            if len(word) >= (_SHORTEST_NAME if word.isascii() else 2) and not word.isdigit():
                self._names.add(word)
        self.add(value, always=True)

    def add(self, value: str, *, always: bool = False, raw: bool = True) -> None:
        """Remember a value; common words alone are no identity unless `always`.

        With `raw` it is also looked for in binary values and in the finished file.
        """
        words = _WORD.findall(value.casefold())
        phrase = " ".join(words)
        if not words or len(phrase) < (_SHORTEST_PHRASE if phrase.isascii() else 3):
            return
        if not always and all(word in _common_words() or len(word) < 3 for word in words):
            return
        self._phrases.add(phrase)
        if raw and len(value.strip(" \0")) >= _LONG:
            self._raw.add(value.strip(" \0").encode("utf-8", "surrogateescape"))

    def add_description(self, value: str) -> None:
        """Remember a description of the examination. A short one without a number may well be a
        word that codes use too (MOSAIC): it counts in texts, not in codes.
        """
        if len(value.strip()) > _LONGEST_CODE or _NUMBER.search(value):
            self.add(value)
            return
        before = set(self._phrases)
        self.add(value, raw=False)
        self._descriptions |= self._phrases - before

    def forget(self, value: str) -> None:
        """Take back one remembered value, which the profile retains."""
        self._phrases.discard(" ".join(_WORD.findall(value.casefold())))
        self._raw.discard(value.strip(" \0").encode("utf-8", "surrogateescape"))

    def found_in(self, value: str, *, names: bool = True) -> bool:
        """Tell whether one of the values stands in `value`.

        With `names` false, for codes, single name parts and short descriptions do not count: a
        code such as HEAD is no person.
        """
        text = normal(value)
        phrases = self._phrases if names else self._phrases - self._descriptions
        if names and not self._names.isdisjoint(text.split()):
            return True
        return any(
            phrase in text if len(phrase) >= _LONG else f" {phrase} " in text for phrase in phrases
        )

    def found_in_bytes(self, content: bytes) -> bool:
        """Tell whether one of the longer values (8 bytes or more) stands in `content`."""
        return any(raw in content for raw in self._raw)
