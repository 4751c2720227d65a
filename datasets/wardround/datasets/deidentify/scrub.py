"""What was taken out must not come back in what stayed: remembered first, then looked for."""

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from wardround.datasets.deidentify import values
from wardround.datasets.deidentify.dummies import dummy
from wardround.datasets.deidentify.table import Option, every_rule
from wardround.datasets.deidentify.text import common
from wardround.datasets.deidentify.walk import PATIENT_ID, PATIENT_NAME, PIXELS, Walk

_CHARACTER_SET, _ACCESSION_NUMBER = 0x00080005, 0x00080050
# Which list a code is of tells nobody, and other codes are of the same list.
_CODING_SCHEMES = frozenset({0x00080102, 0x00080103})
_LARGE = 1_000_000  # smaller binary numbers are sizes and counts


def remember(element: DataElement, walk: Walk) -> None:
    """Note what identified the patient in an element that goes, its items included."""
    if element.VR == "SQ":
        for item in element.value or ():
            for inner, value in values.nested_strings(item):
                _note(inner, value, walk)
    else:
        for value in values.strings(element):
            _note(element, value, walk)


def _note(element: DataElement, value: str, walk: Walk) -> None:
    tag = int(element.tag)
    if element.VR == "PN":
        walk.identity.add_name(value)
    elif tag in (PATIENT_ID, _ACCESSION_NUMBER):
        walk.identity.add_number(value, person=tag == PATIENT_ID)
    elif element.VR == "UI":
        if Option.UIDS not in walk.profile.options and walk.pseudonyms.uid(value) != value:
            walk.identity.add(value, always=True)
    elif element.VR in values.TEMPORAL:
        if element.VR != "TM":
            walk.identity.add_day(value)
        elif len(value) > 8:
            walk.identity.add(value, always=True, raw=False)
    elif element.tag.is_private:
        # Vendors repeat harmless public attributes in their own: only names and what looks like
        # a record number count from there.
        if element.VR != "UN" and any(map(str.isdigit, value)) and values.telltale(0, value):
            walk.identity.add(value)
    elif element.VR not in ("DS", "IS", "AS") and tag not in _CODING_SCHEMES:
        rule = every_rule().get(tag)
        if rule is not None and (Option.DESCRIPTORS, "C") in rule.options:
            walk.identity.add_description(value)
        else:
            walk.identity.add(value)


def scrub(dataset: Dataset, walk: Walk) -> None:
    """Take removed values, and what looks like one, out of everything that stayed."""
    for value in walk.kept:
        walk.identity.forget(value)
    _scrub(dataset, walk, kept=False)


def _scrub(dataset: Dataset, walk: Walk, *, kept: bool) -> None:
    """`kept`: the data set is an item of a sequence that an option retains."""
    for element in list(dataset):
        tag = int(element.tag)
        if element.VR == "SQ":
            for item in element.value or ():
                _scrub(item, walk, kept=kept or walk.keeps(tag))
        elif tag in PIXELS or tag in (PATIENT_NAME, PATIENT_ID, _CHARACTER_SET):
            continue
        elif element.VR in values.BINARY:
            content = element.value
            if isinstance(content, bytes) and walk.identity.found_in_bytes(content, parts=True):
                del dataset[element.tag]
                walk.counts["repeated_values_removed"] += 1
        elif element.VR == "UI":
            _scrub_uids(element, walk, kept=kept or walk.keeps(tag))
        elif element.VR in values.NUMBERS:
            _scrub_numbers(dataset, element, walk)
        else:
            _scrub_texts(dataset, element, walk, kept=kept or walk.keeps(tag))


def _scrub_uids(element: DataElement, walk: Walk, *, kept: bool) -> None:
    """A UID that an option keeps is replaced when the patient's number is part of it."""
    old = list(values.strings(element))
    new = [walk.pseudonyms.uid(uid) if walk.identity.in_uid(uid) else uid for uid in old]
    if kept and new != old:
        element.value = new[0] if len(new) == 1 else new
        walk.counts["repeated_values_removed"] += 1


def _scrub_numbers(dataset: Dataset, element: DataElement, walk: Walk) -> None:
    many = element.value if isinstance(element.value, list | MultiValue) else [element.value]
    if any(number and number >= _LARGE and walk.identity.is_number(number) for number in many):
        dataset[element.tag] = dummy(element.tag, element.VR, element.value)
        walk.counts["repeated_values_removed"] += 1


def _scrub_texts(dataset: Dataset, element: DataElement, walk: Walk, *, kept: bool) -> None:
    texts = list(values.strings(element))
    told = [_tells(element, text, walk, kept=kept) for text in texts]
    if any(told):
        new = [
            dummy(element.tag, element.VR, text).value if tells else text
            for text, tells in zip(texts, told, strict=True)
        ]
        dataset[element.tag] = DataElement(element.tag, element.VR, new if len(new) > 1 else new[0])
        walk.counts["repeated_values_removed"] += 1


def _tells(element: DataElement, text: str, walk: Walk, *, kept: bool) -> bool:
    tag, vr = int(element.tag), element.VR
    if vr in ("DS", "IS"):
        return walk.identity.is_number(text)
    code = vr in ("CS", "AE", "AS")
    if not (code or vr in values.SHORT_TEXT or vr in values.LONG_TEXT):
        return False
    if kept:
        # A hospital or a machine may be called like the patient; a code is not.
        return walk.identity.found_in(text, code=code, parts=vr == "CS")
    # A code of the standard's own words (MONOCHROME2) tells nobody, whoever is called Chrome.
    if code and common(text):
        return False
    return walk.identity.found_in(text, code=code) or values.telltale(tag, text)
