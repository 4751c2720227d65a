"""PS3.15 Table E.1-1, read from `annex_e.txt`: what each attribute needs under each option.

`beyond.txt` holds, in the same form, what this product adds to the standard's table.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources


class Option(StrEnum):
    """Options of the Basic Application Level Confidentiality Profile (PS3.15 section E.3)."""

    SAFE_PRIVATE = "retain_safe_private"
    UIDS = "retain_uids"
    DEVICE = "retain_device_identity"
    INSTITUTION = "retain_institution_identity"
    PATIENT = "retain_patient_characteristics"
    FULL_DATES = "retain_full_dates"
    MODIFIED_DATES = "retain_modified_dates"
    DESCRIPTORS = "clean_descriptors"
    STRUCTURED = "clean_structured_content"
    GRAPHICS = "clean_graphics"
    PIXELS = "clean_pixel_data"


# The order of the letters in annex_e.txt; Clean Pixel Data has no column in the standard's table.
COLUMNS = tuple(option for option in Option if option is not Option.PIXELS)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the Basic Profile's action ("X", "Z", "D", "U", "X/Z", ...) and the options' own.

    `options` maps an option to "K" (keep) or "C" (clean).
    """

    basic: str
    options: tuple[tuple[Option, str], ...]


# Command set, file meta and media directory have no place in a data set, whatever an option says;
# print jobs, industrial testing and baggage screening are no patient's image.
MISPLACED_GROUPS = frozenset({0x0000, 0x0002, 0x0004})
FOREIGN_GROUPS = frozenset({0x0014, 0x2100, 0x4010})


@lru_cache(maxsize=1)
def rules() -> tuple[dict[int, Rule], dict[str, Rule]]:
    """Return the rules by tag, and those of the four patterns ("50xxxxxx", ..., "private")."""
    every = _read("annex_e.txt")
    patterns = {name: rule for name, rule in every.items() if "x" in name or name == "private"}
    return {int(name, 16): every[name] for name in every if name not in patterns}, patterns


@lru_cache(maxsize=1)
def every_rule() -> dict[int, Rule]:
    """Return the rules by tag: the standard's, and those of `beyond.txt`."""
    return {int(name, 16): rule for name, rule in _read("beyond.txt").items()} | rules()[0]


def _read(file: str) -> dict[str, Rule]:
    found: dict[str, Rule] = {}
    text = resources.files(__package__).joinpath(file).read_text("ascii")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, basic, letters = line.split()[:3]
        options = tuple(
            (option, letter)
            for option, letter in zip(COLUMNS, letters, strict=True)
            if letter != "."
        )
        found[name] = Rule(basic, options)
    return found


@lru_cache(maxsize=1)
def _iod_types() -> tuple[dict[str, int], dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    classes: dict[str, int] = {}
    top: dict[tuple[int, int], int] = {}
    nested: dict[tuple[int, int], int] = {}
    text = resources.files(__package__).joinpath("iod_types.txt").read_text("ascii")
    for line in text.splitlines():
        word, *rest = line.split()
        if word == "sop":
            for suffix in rest:
                classes[f"1.2.840.10008.5.1.4.{suffix}"] = len(classes)
        elif word == "top":
            top[int(rest[0], 16), int(rest[1])] = int(rest[2], 16)
        elif word == "in":
            nested[int(rest[0], 16), int(rest[1], 16)] = int(rest[2])
    return classes, top, nested


def known_class(uid: str) -> bool:
    """Tell whether `uid` is a storage class whose attributes' types are known here."""
    return uid in _iod_types()[0]


def attribute_type(sop_class: str, sequence: int | None, tag: int) -> int:
    """Return 1, 2 or 3: how strongly PS3.3 asks for `tag` in this class of object.

    `sequence` is the tag of the sequence whose item holds it, None at top level. Conditional
    types count as their stronger form, since a dummy value is never wrong where a condition
    holds. What is not known to be of type 1 or 2 is of type 3.
    """
    classes, top, nested = _iod_types()
    if sequence is not None:
        return nested.get((sequence, tag), 3)
    bit = classes.get(sop_class)
    if bit is None:
        return 3
    return next((kind for kind in (1, 2) if top.get((tag, kind), 0) >> bit & 1), 3)


def resolve(action: str, kind: int) -> str:
    """Choose among the alternatives of a conditional action, e.g. "X/Z/D", for type `kind`.

    PS3.15 table E.1-1a: remove for type 3, empty for type 2, dummy for type 1; where the fitting
    one is not offered, the next that keeps the object valid.
    """
    offered = action.replace("*", "").split("/")
    wanted = {1: "DUZX", 2: "ZDUX", 3: "XZUD"}[kind]
    return next(letter for letter in wanted if letter in offered)
