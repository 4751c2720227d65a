"""Text that stays: which words may, and which values of this patient must not come back in it."""

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

from pydicom._dicom_dict import DicomDictionary

_WORD = re.compile(r"[^\W_]+")
# Shorter values ("M", "CT", "001") would match by chance in places that name nobody.
_SHORTEST_PHRASE = 5
_SHORTEST_NUMBER = 4
_SHORTEST_NAME = 3
_SHORTEST_EMBEDDED_NAME = 5
_FIRST_IDEOGRAPH = "\u2e80"
_LONG = 8
_LONGEST_CODE = 16  # characters, of a CS value
_NUMBER = re.compile(r"\d{4}")
_SHORT_UID = re.compile(rb"(?=.{,19}\Z)\d+(\.\d+)+")


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
    """Keep the plain words and single numbers of up to two digits in `value`, drop all others.

    An allow-list, since no list of names is complete: a word that is not known to be harmless
    goes. Numbers beside numbers go too: they may be a date or a telephone. Punctuation becomes
    one space.
    """
    words = _WORD.findall(value)
    digits = [False, *map(str.isdigit, words), False]
    return " ".join(
        word
        for word, before, number, after in zip(words, digits, digits[1:], digits[2:], strict=False)
        if word.casefold() in plain_words() or (number and len(word) <= 2 and not (before or after))
    )


def common(value: str) -> bool:
    """Tell whether `value` is made of plain words, words of the standard's attribute names, single
    letters and numbers of up to two digits.
    """
    return all(
        word in _common_words() or len(word) == 1 or (word.isdigit() and len(word) <= 2)
        for word in _WORD.findall(value.casefold())
    )


class Identity:
    """What identified the patient in one file: the values that were taken out of it.

    They are looked for in everything that stays, since people type a name into a comment and
    devices copy it into other attributes.
    """

    __slots__ = ("_descriptions", "_index", "_names", "_numbers", "_person", "_phrases", "_raw")

    def __init__(self) -> None:
        self._descriptions: set[str] = set()
        self._index: dict[str, list[str]] = {}  # of the phrases, made when first asked for
        self._names: set[str] = set()
        self._numbers: set[str] = set()
        self._person: set[str] = set()
        self._phrases: set[str] = set()
        self._raw: set[bytes] = set()

    def add_name(self, value: str) -> None:
        """Remember a person's name: each part of it as a word, and the whole."""
        for word in _WORD.findall(value.casefold()):
            if len(word) >= (_SHORTEST_NAME if word.isascii() else 2) and not word.isdigit():
                self._names.add(word)
        self.add(value, always=True)
        self._person.add(_phrase(value))

    def add_number(self, value: str, *, person: bool = False) -> None:
        """Remember a record's number, shorter than `add` would take, and the digits in it."""
        self.add(value, always=True)
        for word in (_phrase(value), *_WORD.findall(value.casefold())):
            if len(word) >= _SHORTEST_NUMBER and any(map(str.isdigit, word)):
                self._remember(word)
        self._numbers.add(value.strip())
        if person:
            self._person.add(_phrase(value))

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
        self._remember(phrase)
        if raw and len(value.strip(" \0")) >= _LONG:
            self._raw.add(value.strip(" \0").encode("utf-8", "surrogateescape"))

    def _remember(self, phrase: str) -> None:
        self._phrases.add(phrase)
        self._descriptions.discard(phrase)
        self._index.clear()

    def add_description(self, value: str) -> None:
        """Remember a description of the examination. A short one without a number may well be a
        word that codes use too (MOSAIC): it counts in texts, not in codes.
        """
        if len(value.strip()) > _LONGEST_CODE or _NUMBER.search(value):
            self.add(value)
            return
        phrase = _phrase(value)
        if phrase not in self._phrases:
            self.add(value, raw=False)
            self._descriptions.add(phrase)

    def forget(self, value: str) -> None:
        """Take back one remembered value, which the profile retains; never who the patient is."""
        if _phrase(value) not in self._person:
            self._phrases.discard(_phrase(value))
            self._index.clear()
            self._raw.discard(value.strip(" \0").encode("utf-8", "surrogateescape"))

    def is_number(self, value: str) -> bool:
        """Tell whether a number as written is the patient's or the request's record number."""
        return len(value.strip()) >= _SHORTEST_PHRASE and value.strip() in self._numbers

    def found_in(self, value: str, *, code: bool = False, parts: bool = True) -> bool:
        """Tell whether one of the values stands in `value`, also in one word with others.

        In a `code`, names that are common words (HEAD) and short descriptions do not count.
        Without `parts`, only a whole name counts, not a part of it.
        """
        words = _WORD.findall(value.casefold())
        spaced, joined = f" {' '.join(words)} ", "".join(words)
        names = self._names - _common_words() if code else self._names if parts else set()
        if not names.isdisjoint(words) or any(_embedded(name, joined) for name in names):
            return True
        return any(
            not (code and phrase in self._descriptions)
            for phrase in self._phrases_in(words, spaced, joined)
        )

    def _phrases_in(self, words: list[str], spaced: str, joined: str) -> Iterator[str]:
        """Yield the remembered phrases in a text: short ones as words of their own, long ones
        anywhere and without regard to what parts their words.

        A report has thousands of texts, and of phrases too: each text is looked up, never each
        phrase.
        """
        if not self._index:
            for phrase in self._phrases:
                whole = phrase.replace(" ", "")
                begins = whole[:_LONG] if len(whole) >= _LONG else phrase.split()[0]
                self._index.setdefault(begins, []).append(phrase)
        for at in range(len(joined) - _LONG + 1):
            for phrase in self._index.get(joined[at : at + _LONG], ()):
                if joined.startswith(phrase.replace(" ", ""), at):
                    yield phrase
        for word in words:
            for phrase in self._index.get(word, ()):
                if f" {phrase} " in spaced:
                    yield phrase

    def found_in_bytes(self, content: bytes) -> bool:
        """Tell whether one of the longer values (8 bytes or more) stands in `content`.

        A short UID begins many others, by chance the new ones too: it counts as a whole only.
        """
        return any(
            raw in content and (not _SHORT_UID.fullmatch(raw) or _whole(raw, content))
            for raw in self._raw
        )


def _whole(uid: bytes, content: bytes) -> bool:
    return re.search(rb"(?<![\d.])" + re.escape(uid) + rb"(?![\d.])", content) is not None


def _phrase(value: str) -> str:
    return " ".join(_WORD.findall(value.casefold()))


def _embedded(name: str, joined: str) -> bool:
    """Tell whether a name stands inside a longer word. Chinese, Japanese and Korean have no gaps
    between words; elsewhere short names and common words stand in others by chance.
    """
    if name[0] >= _FIRST_IDEOGRAPH:
        return name in joined
    long = len(name) >= _SHORTEST_EMBEDDED_NAME and name not in _common_words()
    return long and name in joined
