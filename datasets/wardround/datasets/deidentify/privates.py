"""Private attributes the standard calls safe (PS3.15 Table E.3.10-1), for the option that keeps
them. Only those of numbers are on our list: a private text is never known to be harmless.
"""

from functools import lru_cache
from importlib import resources

from pydicom.datadict import private_dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from wardround.datasets.deidentify.values import UNDECODABLE, well_formed

_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US", "OF"})


@lru_cache(maxsize=1)
def _listed() -> dict[tuple[str, int], frozenset[int]]:
    listed: dict[tuple[str, int], frozenset[int]] = {}
    text = resources.files(__package__).joinpath("private_safe.txt").read_text("ascii")
    for line in text.splitlines():
        if not line.startswith("#"):
            creator, group, elements = line.split("|")
            listed[creator, int(group, 16)] = frozenset(int(e, 16) for e in elements.split())
    return listed


def safe_privates(dataset: Dataset) -> frozenset[int]:
    """Return the tags of `dataset` that are safe private attributes, and their creators' tags."""
    safe: set[int] = set()
    # keys(): iterating a data set itself would decode every element.
    for tag in list(dataset.keys()):
        if not tag.is_private or tag.element < 0x1000:
            continue
        creator_tag = tag.group << 16 | tag.element >> 8
        creator, value = _element(dataset, creator_tag), _element(dataset, tag)
        if creator is None or value is None:
            continue
        maker = str(creator.value).strip()
        if tag.element & 0xFF not in _listed().get((maker, tag.group), frozenset()):
            continue
        try:
            declared = private_dictionary_VR(tag, maker)
        except KeyError:
            continue
        if declared in _NUMBERS and declared == value.VR and well_formed(value):
            safe |= {int(tag), creator_tag}
    return frozenset(safe)


def _element(dataset: Dataset, tag: int) -> DataElement | None:
    try:
        return dataset.get(tag, None)
    except UNDECODABLE:
        return None
