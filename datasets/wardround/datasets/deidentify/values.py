"""Small questions about the value of an element: its VR, its strings, whether it may stay."""

import re
import struct
from collections.abc import Iterable, Iterator

from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

from wardround.datasets.errors import Refused

MAX_DEPTH = 64
# What pydicom raises for a value it cannot decode.
UNDECODABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    NotImplementedError,
    OverflowError,
    EOFError,
    struct.error,
    BytesLengthException,
)

BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
TEMPORAL = frozenset({"DA", "DT", "TM"})
LONG_TEXT = frozenset({"LT", "ST", "UC", "UT"})
SHORT_TEXT = frozenset({"LO", "SH"})
_STRINGS = frozenset({"AE", "AS", "CS", "IS", "DS", "PN", "UR"}) | LONG_TEXT | SHORT_TEXT | TEMPORAL
_FAMILIES = (
    frozenset({"AE", "CS", "UR"}) | LONG_TEXT | SHORT_TEXT,
    frozenset({"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL", "UV", "SV"}),
    BINARY - {"UN"},
)
# Months as English, German, French, Spanish, Italian and Dutch shorten them.
_MONTH = (
    r"(?:jan|ene|gen|feb|f[eé]v|m[aä]r|mrt|apr|avr|abr|ma[iyg]|mei|jui?n|giu|jui?l|lug|a[uo][ugû]|"
    r"ago|sep|set|o[ckt]t|nov|d[eéi][czb])[^\W\d_]*"
)
# A mark of a person or a record in a text that no rule names: a mail address, a person's name in
# DICOM form, a date or a number of eight digits and more, a UID.
_TELLTALE = re.compile(
    r"@|\^|\d{8}|(?:19|20)\d\d[-./]\d{1,2}[-./]\d{1,2}(?!\d)|\d{1,2}[-./]\d{1,2}[-./]\d{4}|"
    r"\d+(?:\.\d+){5}|"
    rf"\d{{1,2}}[ ./-]*{_MONTH}[ ./-]*(?:19|20)?\d\d(?!\d)|"
    rf"{_MONTH}[ ./-]*\d{{1,2}}[ ,./-]+(?:19|20)\d\d(?!\d)",
    re.IGNORECASE,
)
CHARACTER_SET = 0x00080005
# How the values of each binary number are stored, and letters enough to be a text and no numbers.
_STORED = {
    "AT": "L", "FD": "d", "FL": "f", "SL": "l", "SS": "h", "SV": "q", "UL": "L", "US": "H",
    "UV": "Q",
}  # fmt: skip
NUMBERS = frozenset(_STORED)
_SPELLED = re.compile(rb"(?=(?:[^A-Za-z]*[A-Za-z]){6})[\w ^=.,'-]{8,}[\0 ]*")
_SPELLED_FLOATS = 16  # bytes; fewer may look like letters by chance
_WRITTEN = {
    "DS": re.compile(r"\s*(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)?\s*"),
    "IS": re.compile(r"\s*(?:[+-]?\d+(?:\.0*)?)?\s*"),
    "AS": re.compile(r"\s*(?:\d{3}[DWMY])?\s*"),
    "DA": re.compile(r"\s*(?:\d{4}([.\-]?)\d{2}\1\d{2})?\s*"),
    "DT": re.compile(r"\s*(?:\d{4}(?:\d{2}){0,5}(?:\.\d{1,6})?(?:[+-]\d{4})?)?\s*"),
    "TM": re.compile(r"\s*(?:\d{2}(?::?\d{2}){0,2}(?:\.\d{1,6})?)?\s*"),
    "UI": re.compile(r"[0-9.]{0,64}[\s\0]*"),
}
# Code strings have capitals, digits, space and underscore (PS3.5 section 6.2). What makers write
# beside that, up to 16 signs without a gap in its words, is let through too.
_CODE = re.compile(r"[A-Z0-9 _]{0,16}|[\w+./*#-]{1,16}", re.ASCII)
# Codes are numbers of many digits by nature (SNOMED CT has up to 18).
_CODES = frozenset({0x00080100, 0x00080102, 0x00080103, 0x00080119})


def declared_vrs(tag: int) -> frozenset[str]:
    """Return the VRs the standard gives a public attribute; empty when it does not know it."""
    entry = DicomDictionary.get(tag)
    return frozenset(entry[0].split(" or ")) if entry else frozenset()


def retired(tag: int) -> bool:
    """Tell whether the standard has retired the attribute."""
    entry = DicomDictionary.get(tag)
    return bool(entry and entry[3])


def fits(vr: str, declared: frozenset[str]) -> bool:
    """Tell whether a file's VR is the declared one or of the same family (SH for LO, IS for DS)."""
    return vr in declared or any(vr in family and declared & family for family in _FAMILIES)


def strings(element: DataElement) -> Iterator[str]:
    """Yield each value of an element of a string VR, or of bytes that are text, as text."""
    value = element.value
    if value is None:
        return
    many: Iterable[object] = value if isinstance(value, list | tuple | MultiValue) else (value,)
    for one in many:
        if isinstance(one, bytes):
            if len(one) <= 1 << 16:
                yield one.decode("latin-1")
        elif element.VR in _STRINGS or element.VR == "UI":
            yield str(one)


def well_formed(element: DataElement) -> bool:
    """Tell whether a number, a date, an age, a UID or a character set is one: free text hides
    there otherwise.
    """
    if element.tag == CHARACTER_SET:
        return all(value in python_encoding for value in strings(element))
    pattern = _WRITTEN.get(element.VR)
    return pattern is None or all(pattern.fullmatch(value) for value in strings(element))


def spells(element: DataElement) -> bool:
    """Tell whether the bytes of a value of numbers are letters: a text hides there."""
    form, content = _STORED.get(element.VR), element.value
    if form is not None and content is not None:
        many = content if isinstance(content, list | MultiValue) else [content]
        content = struct.pack(f"<{len(many)}{form}", *many)
        if element.VR == "FL" and len(content) < _SPELLED_FLOATS:
            return False
    return isinstance(content, bytes) and bool(_SPELLED.fullmatch(content))


def coded(element: DataElement) -> bool:
    """Tell whether each value of a CS has the form of a code, not of a text."""
    return all(_CODE.fullmatch(value.strip()) for value in strings(element))


def empty(element: DataElement) -> bool:
    """Tell whether the element has no value."""
    value = element.value
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def telltale(tag: int, value: str) -> bool:
    """Tell whether a text looks as if it named a person, a record, a day or an instance."""
    return tag not in _CODES and bool(_TELLTALE.search(value))


def nested_strings(item: Dataset, depth: int = 0) -> Iterator[tuple[DataElement, str]]:
    """Yield every string in a data set and the items of its sequences, with its element."""
    if depth > MAX_DEPTH:
        raise Refused("malformed", f"sequences are nested deeper than {MAX_DEPTH} levels")
    for tag in item.keys():  # noqa: SIM118  # a data set iterates over elements, not keys
        try:
            element = item[tag]
        except UNDECODABLE:
            continue
        if element.VR == "SQ":
            for inner in element.value or ():
                yield from nested_strings(inner, depth + 1)
        else:
            for value in strings(element):
                yield element, value
