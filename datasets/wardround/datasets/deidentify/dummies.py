"""Dummy values (action D): valid for their VR, the same for everybody, never the original."""

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

_TEXT = ("REMOVED", "ANONYMIZED")
# For each VR two values: the second is used where the original happens to be the first.
_PAIRS: dict[str, tuple[object, object]] = {
    "AE": _TEXT,
    "AS": ("000Y", "001Y"),
    "AT": (0x00000000, 0x00000001),
    "CS": _TEXT,
    "DA": ("19000101", "19000102"),
    "DS": ("0", "1"),
    "DT": ("19000101000000", "19000102000000"),
    "FD": (0.0, 1.0),
    "FL": (0.0, 1.0),
    "IS": ("0", "1"),
    "LO": _TEXT,
    "LT": _TEXT,
    "OB": (b"\0\0", b"\1\0"),
    "OD": (bytes(8), b"\1" + bytes(7)),
    "OF": (bytes(4), b"\1" + bytes(3)),
    "OL": (bytes(4), b"\1" + bytes(3)),
    "OV": (bytes(8), b"\1" + bytes(7)),
    "OW": (b"\0\0", b"\1\0"),
    "PN": ("Removed^Removed", "Anonymized^Anonymized"),
    "SH": _TEXT,
    "SL": (0, 1),
    "SS": (0, 1),
    "ST": _TEXT,
    "SV": (0, 1),
    "TM": ("000000", "000001"),
    "UC": _TEXT,
    "UI": ("2.25.0", "2.25.1"),
    "UL": (0, 1),
    "UN": (b"\0\0", b"\1\0"),
    "UR": ("urn:removed", "urn:anonymized"),
    "US": (0, 1),
    "UT": _TEXT,
    "UV": (0, 1),
}


def dummy(tag: int, vr: str, original: object) -> DataElement:
    """Return an element with `tag` and `vr` whose value tells nothing and is not `original`.

    As many values as before. A sequence becomes one item with a code that says the content was
    removed.
    """
    if vr == "SQ":
        return DataElement(tag, "SQ", Sequence([removed_code()]))
    if isinstance(original, MultiValue | list):
        return DataElement(tag, vr, [dummy(tag, vr, one).value for one in original])
    first, second = _PAIRS[vr if vr in _PAIRS else "UN"]
    same = original == first or str(original).strip(" \0") == str(first)
    return DataElement(tag, vr, second if same else first)


def removed_code() -> Dataset:
    """Return the coded concept of a removed content."""
    item = Dataset()
    item.CodeValue = "REMOVED"
    item.CodingSchemeDesignator = "99WARDROUND"
    item.CodeMeaning = "Removed"
    return item


# The smallest valid document of each kind an Encapsulated Document object may hold.
EMPTY_DOCUMENTS = {
    "application/pdf": (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>endobj\n"
        b"xref\n0 4\n0000000000 65535 f \n0000000009 00000 n \n0000000052 00000 n \n"
        b"0000000101 00000 n \ntrailer<</Size 4/Root 1 0 R>>\nstartxref\n162\n%%EOF\n"
    ),
    "text/xml": b'<?xml version="1.0"?><removed/>',
    "model/stl": bytes(84),
}
