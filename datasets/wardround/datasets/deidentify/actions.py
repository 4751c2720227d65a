"""The walk through a data set: each attribute is removed, emptied, replaced, cleaned or kept.

Order of decision for an attribute: a rule of the standard's table and the options that are on;
else whether the standard knows the attribute at all (what it does not know goes); else its VR.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from wardround.datasets.deidentify import codes, dates, icc, text, values
from wardround.datasets.deidentify.dummies import EMPTY_DOCUMENTS, dummy, removed_code
from wardround.datasets.deidentify.lengths import cut_surplus
from wardround.datasets.deidentify.privates import safe_privates
from wardround.datasets.deidentify.scrub import remember, scrub
from wardround.datasets.deidentify.table import (
    FOREIGN_GROUPS,
    MISPLACED_GROUPS,
    Option,
    attribute_type,
    every_rule,
    resolve,
)
from wardround.datasets.deidentify.walk import PATIENT_ID, PATIENT_NAME, PIXELS, Walk
from wardround.datasets.errors import Refused

_DOCUMENT, _DOCUMENT_TYPE, _DOCUMENT_LENGTH = 0x00420011, 0x00420012, 0x00420015
_TEXT_VALUE, _ICC_PROFILE = 0x0040A160, 0x00282000
_CODE_VALUE, _SCHEME, _CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
_LONG_CODE_VALUE = 0x00080119
# A code stands in an item; outside of one it is what a broken sequence left.
_CODES = frozenset({0x00080100, 0x00080102, 0x00080103, 0x00080104, 0x00080119, 0x00080120})
# All that a reference to another instance needs, and the code that says what for; a kept reference
# holds nothing else.
_REFERENCE = frozenset({0x00081150, 0x00081155, 0x00081160, 0x0062000B, 0x00081162, 0x0040A170})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is: the sequence around, how deep, whether the item stands for a dummy, and
    whether an option let the sequence stay on condition that its texts are cleaned.
    """

    sequence: int | None = None
    depth: int = 0
    dummies: bool = False
    cleaned: bool = False


def clean_dataset(dataset: Dataset, walk: Walk) -> None:
    """De-identify `dataset` in place. File meta and pixels are not touched here.

    Raises Refused for what cannot be made safe.
    """
    _clean(dataset, walk, _Place())
    scrub(dataset, walk)


def _clean(dataset: Dataset, walk: Walk, place: _Place) -> None:
    if place.depth > values.MAX_DEPTH:
        raise Refused("malformed", f"sequences are nested deeper than {values.MAX_DEPTH} levels")
    walk.counts["surplus_removed"] += cut_surplus(dataset)
    safe = safe_privates(dataset) if Option.SAFE_PRIVATE in walk.profile.options else frozenset()
    for tag in sorted(dataset.keys()):
        if tag not in dataset:
            continue
        try:
            element = dataset[tag]
        except values.UNDECODABLE:
            del dataset[tag]
            walk.counts["undecodable_removed"] += 1
            continue
        number = int(tag)
        if tag.is_private:
            if number in safe:
                walk.counts["private_kept"] += 1
            else:
                _remove(dataset, element, walk, "private_removed")
        elif tag.group in MISPLACED_GROUPS or tag.element == 0:
            _remove(dataset, element, walk, "foreign_removed")
        elif tag.group >> 8 == 0x50 or (tag.group >> 8 == 0x60 and tag.group & 1 == 0):
            _remove(dataset, element, walk, "graphics_removed")
        elif number in _CODES and not place.depth:
            _remove(dataset, element, walk, "foreign_removed")
        elif number in every_rule():
            _by_rule(dataset, element, walk, place)
        elif tag.group in FOREIGN_GROUPS:
            _remove(dataset, element, walk, "foreign_removed")
        else:
            _without_rule(dataset, element, walk, place)


def _by_rule(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    tag = int(element.tag)
    # What does not fit its VR is not what an option meant to let stay.
    if _fits(element):
        if walk.keeps(tag):
            _keep_by_option(element, walk, place)
            return
        option = next((o for o, letter in walk.letters(tag).items() if letter == "C"), None)
        if option and _clean_by_option(element, walk, place, option):
            return
    action = every_rule()[tag].basic
    if action == "X/Z/U*" and _keep_references(element, walk, place):
        return
    if "/" in action:
        action = resolve(action, attribute_type(walk.sop_class, place.sequence, tag))
    _ACTIONS[action](dataset, element, walk, place)


def _fits(element: DataElement) -> bool:
    declared = values.declared_vrs(int(element.tag))
    if int(element.tag) not in PIXELS and values.spells(element):
        return False
    return values.fits(element.VR, declared) and values.well_formed(element)


def _keep_by_option(element: DataElement, walk: Walk, place: _Place) -> None:
    walk.counts["kept_by_option"] += 1
    if element.VR == "SQ":
        _items(element, walk, place)
        return
    texts = list(values.strings(element))
    if element.VR == "AS":
        # Ages above 89 identify by themselves (45 CFR 164.514(b)(2)(i)(C)).
        capped = [
            "090Y" if age.strip()[3:] == "Y" and age.strip() > "089Y" else age for age in texts
        ]
        if capped != texts:
            element.value = capped[0] if len(capped) == 1 else capped
            walk.counts["age_capped"] += 1
    else:
        walk.kept.extend(texts)


def _clean_by_option(element: DataElement, walk: Walk, place: _Place, option: Option) -> bool:
    """Apply action C of `option`; False when the value cannot be cleaned, only removed."""
    if option is Option.MODIFIED_DATES:
        return _shift(element, walk)
    if element.VR == "SQ":
        _items(element, walk, place, cleaned=True)
        walk.counts["cleaned"] += 1
        return True
    if option in (Option.DESCRIPTORS, Option.PATIENT, Option.DEVICE, Option.STRUCTURED):
        return _clean_text(element, walk)
    return False


def _shift(element: DataElement, walk: Walk) -> bool:
    """Move DA and DT by the patient's own number of days; a TM stays as it is."""
    remember(element, walk)
    if element.VR == "TM":
        walk.counts["time_kept"] += 1
        return True
    move = {"DA": dates.shift_date, "DT": dates.shift_datetime}.get(element.VR)
    if move is None:
        return False
    days = walk.pseudonyms.days_back(walk.patient)
    moved = [move(value, days) for value in values.strings(element) if value.strip()]
    if None in moved:
        return False
    element.value = moved[0] if len(moved) == 1 else moved or None
    walk.counts["dates_shifted"] += 1
    return True


def _clean_text(element: DataElement, walk: Walk) -> bool:
    """Leave only harmless words; False when none is left, or it is no text."""
    if not values.fits(element.VR, values.LONG_TEXT):
        return False
    remember(element, walk)
    cleaned = [text.clean(value) for value in values.strings(element)]
    if not any(cleaned):
        return False
    element.value = cleaned[0] if len(cleaned) == 1 else cleaned
    walk.counts["cleaned"] += 1
    return True


def _keep_references(element: DataElement, walk: Walk, place: _Place) -> bool:
    """Reduce a sequence of references to remapped references and nothing else."""
    if element.VR != "SQ":
        return False
    kept = []
    for item in element.value or ():
        if 0x00081155 not in item:
            continue
        for tag in list(item.keys()):
            if int(tag) not in _REFERENCE:
                _remove(item, item[tag], walk, "removed")
        _clean(item, walk, _Place(int(element.tag), place.depth + 1, cleaned=True))
        kept.append(item)
    if not kept:
        return False
    element.value = Sequence(kept)
    walk.counts["references_kept"] += 1
    return True


def _without_rule(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    tag, vr = int(element.tag), element.VR
    if not values.declared_vrs(tag):
        _remove(dataset, element, walk, "unknown_removed")
    elif vr == "UI" and "UI" in values.declared_vrs(tag):
        _map_uids(dataset, element, walk, place)
    elif not _fits(element):
        _remove(dataset, element, walk, "undecodable_removed")
    elif tag in PIXELS:
        if place.depth:
            _remove(dataset, element, walk, "graphics_removed")
    elif vr == "SQ":
        _items(element, walk, place)
    elif vr in values.TEMPORAL:
        if not (Option.MODIFIED_DATES in walk.profile.options and _shift(element, walk)):
            _remove(dataset, element, walk, "removed")
    elif vr == "PN" or (values.retired(tag) and (vr in values.SHORT_TEXT or vr in values.BINARY)):
        _remove(dataset, element, walk, "removed")
    elif vr in values.LONG_TEXT or vr == "UR":
        _long_text(dataset, element, walk, place)
    elif tag == values.CHARACTER_SET:
        pass
    elif place.dummies:
        if not _common_code(element):
            _replace(dataset, element, walk, place)
    elif place.cleaned:
        _clean_unlisted(dataset, element, walk, place)
    elif tag == _ICC_PROFILE:
        _blank_icc(dataset, element, walk)
    elif vr == "CS" and not values.coded(element):
        _clean_or_replace(dataset, element, walk, place)


def _clean_unlisted(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    """Inside a sequence that stays on condition that it is cleaned: what no rule names."""
    tag, vr = int(element.tag), element.VR
    scheme = str(dataset.get("CodingSchemeDesignator", "")).strip()
    if tag == _CODE_VALUE and _public_code(dataset, element):
        return
    if tag == _SCHEME and codes.public_scheme(scheme):
        return
    if tag == _CODE_MEANING:
        standard = codes.meaning(scheme, str(dataset.get("CodeValue", "")).strip())
        if text.common(str(element.value)):
            return
        if standard is not None:
            element.value = standard
            return
    if vr in values.BINARY:
        _remove(dataset, element, walk, "removed")
    elif vr in values.SHORT_TEXT or (vr == "CS" and not _common_code(element)):
        _clean_or_replace(dataset, element, walk, place)
    elif vr in ("DS", "IS") and any(values.telltale(tag, v) for v in values.strings(element)):
        _replace(dataset, element, walk, place)


def _public_code(dataset: Dataset, element: DataElement) -> bool:
    scheme = str(dataset.get("CodingSchemeDesignator", "")).strip()
    return codes.public_code(scheme, str(element.value).strip())


def _clean_or_replace(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    if not _clean_text(element, walk):
        _replace(dataset, element, walk, place)


def _common_code(element: DataElement) -> bool:
    """Tell whether a code string is made of words that name nobody (TEXT, CONTAINS, POLYLINE)."""
    return element.VR == "CS" and all(map(text.common, values.strings(element)))


def _blank_icc(dataset: Dataset, element: DataElement, walk: Walk) -> None:
    old = element.value
    new = icc.blank_texts(old) if isinstance(old, bytes) else None
    if new is None:
        _remove(dataset, element, walk, "undecodable_removed")
    elif new != old:
        element.value = new
        walk.counts["cleaned"] += 1


def _long_text(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    """Free text that no rule names: cleaned where an option cleans text, else removed.

    In an item it becomes a dummy: many kinds of items (content, codes, notes) are none without it.
    """
    if element.tag == _LONG_CODE_VALUE and _public_code(dataset, element):
        return
    option = Option.STRUCTURED if element.tag == _TEXT_VALUE else Option.DESCRIPTORS
    if option in walk.profile.options and not place.dummies and element.VR != "UR":
        _clean_or_replace(dataset, element, walk, place)
    elif place.depth:
        _replace(dataset, element, walk, place)
    else:
        _remove(dataset, element, walk, "free_text_removed")


def _items(element: DataElement, walk: Walk, place: _Place, *, cleaned: bool = False) -> None:
    inner = _Place(int(element.tag), place.depth + 1, place.dummies, place.cleaned or cleaned)
    for item in element.value or ():
        _clean(item, walk, inner)


def _remove(dataset: Dataset, element: DataElement, walk: Walk, kind: str) -> None:
    remember(element, walk)
    del dataset[element.tag]
    walk.counts[kind] += 1


def _x(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    _remove(dataset, element, walk, "removed")


def _z(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    if element.tag in (PATIENT_NAME, PATIENT_ID):
        _replace(dataset, element, walk, place)
        return
    remember(element, walk)
    vr = _public_vr(element)
    empty = Sequence() if vr == "SQ" else b"" if vr in values.BINARY else None
    dataset[element.tag] = DataElement(element.tag, vr, empty)
    walk.counts["emptied"] += 1


def _replace(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    remember(element, walk)
    tag, vr = element.tag, _public_vr(element)
    if tag in (PATIENT_NAME, PATIENT_ID):
        dataset[tag] = DataElement(tag, vr, walk.pseudonyms.patient(walk.patient))
    elif tag == _DOCUMENT:
        _replace_document(dataset, walk)
    elif vr == "UI":
        _map_uids(dataset, element, walk, place)
        return
    elif vr == "SQ" and element.VR == "SQ" and element.value:
        first = element.value[0]
        _clean(first, walk, _Place(int(tag), place.depth + 1, dummies=True))
        dataset[tag] = DataElement(tag, "SQ", Sequence([first if len(first) else removed_code()]))
    else:
        dataset[tag] = dummy(tag, vr, element.value)
    walk.counts["replaced"] += 1


def _replace_document(dataset: Dataset, walk: Walk) -> None:
    kind = str(dataset.get(_DOCUMENT_TYPE, DataElement(_DOCUMENT_TYPE, "LO", "")).value)
    content = EMPTY_DOCUMENTS.get(kind.strip().casefold())
    if content is None:
        content = b"\0\0"
    dataset[_DOCUMENT] = DataElement(_DOCUMENT, "OB", content + b"\0" * (len(content) % 2))
    if _DOCUMENT_LENGTH in dataset:
        dataset[_DOCUMENT_LENGTH].value = len(content)


def _map_uids(dataset: Dataset, element: DataElement, walk: Walk, place: _Place) -> None:
    old = [value.strip(" \0") for value in values.strings(element)]
    new = [walk.pseudonyms.uid(value) for value in old]
    for before, after in zip(old, new, strict=True):
        if before != after:
            walk.identity.add(before, always=True)
            walk.counts["uids_replaced"] += 1
    vr = _public_vr(element)
    dataset[element.tag] = DataElement(
        element.tag, vr if vr == "UI" else "UI", new[0] if len(new) == 1 else new or None
    )


def _public_vr(element: DataElement) -> str:
    """Return the VR the standard gives, where it gives one; files may claim another."""
    declared = values.declared_vrs(int(element.tag))
    return element.VR if element.VR in declared or not declared else min(declared)


_ACTIONS: dict[str, Callable[[Dataset, DataElement, Walk, _Place], None]] = {
    "X": _x,
    "Z": _z,
    "D": _replace,
    "U": _map_uids,
}
