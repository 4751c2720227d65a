"""Text that stays: which words may, and which values of this patient must not come back in it."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from itertools import pairwise

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
_DAY = re.compile(r"\s*(\d\d)(\d\d)[.\-]?(\d\d)[.\-]?(\d\d)")
_LEAST_RECORD = 10_000  # of a number as such; smaller ones count and measure things
_SHORTEST_MARK = 6  # characters, of a name or a number among bytes
_CLOSE = 16  # greys; the digits lie within ten
# Letters that Unicode does not take apart, and the two spellings of an umlaut.
_PLAIN = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
_SPELT_OUT = re.compile(r"([aou])e")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_DIGITS = re.compile(rb"(?=.{,19}\Z)\d+(\.\d+)*")


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


def folded(value: str) -> str:
    """Return `value` without case, accents and other marks: one spelling of each letter."""
    lower = value.casefold()
    if lower.isascii():
        return lower
    parts = unicodedata.normalize("NFKD", lower).translate(_PLAIN)
    bare = "".join(sign for sign in parts if unicodedata.category(sign)[0] != "M")
    return unicodedata.normalize("NFC", bare).casefold()


class Identity:
    """What identified the patient in one file: the values that were taken out of it.

    They are looked for in everything that stays, since people type a name into a comment and
    devices copy it into other attributes.
    """

    __slots__ = (
        "_days",
        "_descriptions",
        "_index",
        "_marks",
        "_names",
        "_person",
        "_phrases",
        "_raw",
        "_records",
    )

    def __init__(self) -> None:
        self._days: set[int] = set()
        self._descriptions: set[str] = set()
        self._index: dict[str, list[str]] = {}  # of the phrases, made when first asked for
        self._marks: set[bytes] = set()
        self._names: set[str] = set()
        self._person: set[str] = set()
        self._phrases: set[str] = set()
        self._raw: set[bytes] = set()
        self._records: set[int] = set()

    def add_name(self, value: str) -> None:
        """Remember a person's name: each part of it as a word, and the whole."""
        lower = unicodedata.normalize("NFC", value).casefold()
        for spelling in {value, lower.translate(_UMLAUTS), _SPELT_OUT.sub(r"\1", lower)}:
            for word in _words(spelling):
                if len(word) >= (_SHORTEST_NAME if value.isascii() else 2) and not word.isdigit():
                    self._names.add(word)
                    self._mark(word)
        for word in _WORD.findall(value):
            self._mark(word.casefold())
        self.add(value, always=True)
        self._person.add(_phrase(value))

    def add_number(self, value: str, *, person: bool = False) -> None:
        """Remember a record's number, shorter than `add` would take, and the digits in it."""
        self.add(value, always=True)
        for word in (_phrase(value), *_words(value)):
            if len(word) >= _SHORTEST_NUMBER and any(map(str.isdigit, word)):
                self._remember(word)
                self._mark(word)
        for digits in re.findall(r"[0-9]+", value):
            self._mark(digits)
            if int(digits) >= _LEAST_RECORD:
                self._records.add(int(digits))
        if person:
            self._person.add(_phrase(value))

    def add_day(self, value: str) -> None:
        """Remember a date (DA or DT), also in other ways of writing that day."""
        self.add(value, always=True, raw=False)
        if day := _DAY.match(value):
            self._days.add(int("".join(day.groups())))
            self._mark("".join(day.groups()))
            for form in _ways(day):
                self._remember(form)

    def add(self, value: str, *, always: bool = False, raw: bool = True) -> None:
        """Remember a value; common words alone are no identity unless `always`.

        With `raw` it is also looked for in binary values and in the finished file.
        """
        words = _words(value)
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
            day = _DAY.match(value)
            self._phrases -= {_phrase(value), *(_ways(day) if day else ())}
            self._index.clear()
            self._raw.discard(value.strip(" \0").encode("utf-8", "surrogateescape"))
            if day:
                self._days.discard(int("".join(day.groups())))
                self._marks.discard("".join(day.groups()).encode())

    def is_number(self, value: str | float) -> bool:
        """Tell whether a number is a record number of the patient or the request, or a day."""
        try:
            number = float(value)
        except ValueError:
            return False
        return number.is_integer() and int(number) in self._records | self._days

    def in_uid(self, uid: str) -> bool:
        """Tell whether a UID holds a record number of the patient or the request."""
        numbers = (str(number) for number in self._records)
        return any(len(number) >= _SHORTEST_MARK and number in uid for number in numbers)

    def found_in(self, value: str, *, code: bool = False, parts: bool = True) -> bool:
        """Tell whether one of the values stands in `value`, also in one word with others.

        In a `code`, names that are common words (HEAD) and short descriptions do not count.
        Without `parts`, only a whole name counts, not a part of it.
        """
        words = _words(value)
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

    def found_in_bytes(self, content: bytes, *, parts: bool = False, greys: bool = False) -> bool:
        """Tell whether one of the longer values (8 bytes or more) stands in `content`.

        A short UID begins many others, by chance the new ones too, and a decimal may have 00000000
        behind its point: short digits count as a whole only. With `parts`, for bytes that are no
        text, each name and record number of six characters or more counts alone, in any case. With
        `greys`, for plain pixels, a value of signs close together (00000123, XXXXXXXX) does not
        count: an even grey with a little noise spells it.
        """
        if parts:
            lower = content.lower()
            if any(mark in lower for mark in self._marks):
                return True
        return any(
            raw in content and (not _DIGITS.fullmatch(raw) or _whole(raw, content))
            for raw in self._raw
            if not (greys and max(raw) - min(raw) < _CLOSE)
        )

    def _mark(self, word: str) -> None:
        steps = {ord(after) - ord(before) for before, after in pairwise(word)}
        if len(word) >= _SHORTEST_MARK and len(steps) > 1:  # 123456 is in every table of greys
            self._marks.add(word.encode())
            if max(word) <= "\xff":
                self._marks.add(word.encode("latin-1"))


def _whole(uid: bytes, content: bytes) -> bool:
    return re.search(rb"(?<![\d.])" + re.escape(uid) + rb"(?![\d.])", content) is not None


def _words(value: str) -> list[str]:
    return _WORD.findall(folded(value))


def _phrase(value: str) -> str:
    return " ".join(_words(value))


def _ways(day: re.Match[str]) -> set[str]:
    """Return the ways to write a day in digits with a year of two; see `values.telltale` for the
    others.
    """
    _, year, month, date = day.groups()
    forms = set()
    for month_, date_ in ((month, date), (month.lstrip("0"), date.lstrip("0"))):
        for order in ((year, month_, date_), (date_, month_, year), (month_, date_, year)):
            forms.add(" ".join(order))
    return forms | {year + month + date, date + month + year, month + date + year}


def _embedded(name: str, joined: str) -> bool:
    """Tell whether a name stands inside a longer word. Chinese, Japanese and Korean have no gaps
    between words; elsewhere short names and common words stand in others by chance.
    """
    if name[0] >= _FIRST_IDEOGRAPH:
        return name in joined
    long = len(name) >= _SHORTEST_EMBEDDED_NAME and name not in _common_words()
    return long and name in joined
