"""One DICOM file: read, gated, cleaned, marked, written, and looked through once more."""

import io
import re
from collections import Counter
from dataclasses import dataclass, field

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from wardround.datasets.deidentify.actions import clean_dataset
from wardround.datasets.deidentify.blanking import blank
from wardround.datasets.deidentify.decoders import check_decoder
from wardround.datasets.deidentify.frames import (
    CODESTREAMS,
    check_size,
    has_pixels,
    tidy_pixels,
)
from wardround.datasets.deidentify.gate import check_header, check_pixels
from wardround.datasets.deidentify.lengths import cut_surplus
from wardround.datasets.deidentify.profile import EDITION, Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.reading import Content, parse, quiet
from wardround.datasets.deidentify.table import Option, known_class
from wardround.datasets.deidentify.walk import PIXELS, Walk
from wardround.datasets.errors import DeidentificationError, Refused

# UUID-derived (PS3.5 B.2) and the same for every file this software writes.
IMPLEMENTATION_UID = "2.25.302873645116820935446209347912340958211"
IMPLEMENTATION_NAME = "WARDROUND_1"
_UID = re.compile(r"(?=.{1,64}\Z)\d+(\.\d+)*")


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A finished file: its bytes, its new SOP Instance UID, and what was done, counted."""

    data: bytes = field(repr=False)
    uid: str
    counts: Counter[str]


def deidentify(
    content: Content, profile: Profile, pseudonyms: Pseudonyms, *, distinct: bool = False
) -> Deidentified:
    """Return the de-identified form of one file's bytes (PS3.15 Annex E).

    With `distinct` the new SOP Instance UID depends on the content too, for a second file that
    claims the UID of another.

    Raises Refused, with a reason of `reasons.REASONS`, for whatever is not surely safe.
    """
    try:
        with quiet():
            return _deidentify(
                parse(content), profile, pseudonyms, content.sha256 if distinct else ""
            )
    except (Refused, DeidentificationError):
        raise
    except Exception as error:
        # Whatever a broken file makes a library raise, the file is refused, and its values, which
        # the library's message may quote, go nowhere.
        raise Refused("malformed", type(error).__name__) from None


def _deidentify(
    dataset: FileDataset, profile: Profile, pseudonyms: Pseudonyms, salt: str
) -> Deidentified:
    sop_class, instance = _identify(dataset)
    modality = str(dataset.get("Modality", "")).strip()
    if profile.modalities and modality not in profile.modalities:
        raise Refused("modality", "not among the profile's modalities")
    syntax = _syntax(dataset)
    counts: Counter[str] = Counter()
    if has_pixels(dataset):
        _gate(dataset, profile, sop_class, counts)
        syntax = _syntax(dataset)
    walk = Walk(profile, pseudonyms, _patient(dataset), sop_class, counts=counts)
    _remember_meta(dataset, walk)
    clean_dataset(dataset, walk)
    if salt:
        instance = pseudonyms.uid(f"{instance} {salt}")
    elif (
        Option.UIDS not in profile.options
        or not _UID.fullmatch(instance)
        or walk.identity.in_uid(instance)
    ):
        # The result is named by it: what is no UID could be a path.
        instance = pseudonyms.uid(instance)
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(sop_class), UID(instance)
    _mark(dataset, profile)
    data = _write(dataset, syntax)
    _look_again(dataset, data, walk)
    return Deidentified(data, instance, +counts)


def _identify(dataset: FileDataset) -> tuple[str, str]:
    meta = dataset.file_meta
    sop_class = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    instance = str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "")
    sop_class, instance = sop_class.strip(" \0"), instance.strip(" \0")
    if not sop_class or not instance:
        raise Refused("unidentified", "SOP Class or SOP Instance UID is missing")
    listed = UID_dictionary.get(sop_class, ("", ""))[1] == "SOP Class"
    if not listed and not known_class(sop_class):  # some are newer than pydicom's list
        raise Refused("unknown_class", "not a SOP class of the standard")
    return sop_class, instance


def _syntax(dataset: FileDataset) -> UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit, little = dataset.original_encoding
        name = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
        syntax = UID(name if little else "1.2.840.10008.1.2.2")
    syntax = UID(str(syntax))
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise Refused("pixels_unreadable", "a transfer syntax this version does not know")
    dataset.file_meta.TransferSyntaxUID = syntax
    return syntax


def _gate(dataset: FileDataset, profile: Profile, sop_class: str, counts: Counter[str]) -> None:
    check_size(dataset, profile.max_pixel_bytes)
    check_decoder(dataset)
    counts["surplus_removed"] += cut_surplus(dataset)  # a palette too long cannot be applied
    if Option.PIXELS in profile.options and blank(dataset, profile.boxes):
        counts["pixels_blanked"] += 1
    check_header(dataset, sop_class)
    # Tidied first: what is looked at are the very pixels that are written.
    counts["pixels_tidied"] += tidy_pixels(dataset, _syntax(dataset))
    check_pixels(dataset)


def _patient(dataset: Dataset) -> str:
    """Return what stands for the patient: the ID, else name and birth date, else the study."""
    # A number typed with other capitals or padding is the same patient's.
    if number := _typed(dataset, "PatientID").casefold():
        return f"id\0{number}"
    if name := _typed(dataset, "PatientName").casefold():
        return f"name\0{name}\0{_typed(dataset, 'PatientBirthDate')}"
    return f"study\0{dataset.get('StudyInstanceUID', '')}\0{dataset.get('SOPInstanceUID', '')}"


def _typed(dataset: Dataset, keyword: str) -> str:
    return " ".join(str(dataset.get(keyword, "") or "").replace("\0", " ").split())


def _remember_meta(dataset: FileDataset, walk: Walk) -> None:
    """The file meta is written anew; what it named is looked for in the rest."""
    for element in dataset.file_meta:
        if element.tag.element in (0x0003, 0x0016, 0x0017, 0x0018):
            walk.identity.add(str(element.value), always=element.tag.element == 0x0003)
    if Option.UIDS in walk.profile.options:
        walk.identity.forget(str(dataset.file_meta.get("MediaStorageSOPInstanceUID", "")))


def _mark(dataset: Dataset, profile: Profile) -> None:
    """Say in the file what was done to it (PS3.15 section E.1.1, PS3.3 section C.7.1.1)."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"Wardround: DICOM PS3.15 Annex E, table of {EDITION}"
    items = []
    for code, meaning in profile.methods():
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = items
    kept = {Option.FULL_DATES: "UNMODIFIED", Option.MODIFIED_DATES: "MODIFIED"}
    dataset.LongitudinalTemporalInformationModified = next(
        (word for option, word in kept.items() if option in profile.options), "REMOVED"
    )


def _write(dataset: FileDataset, syntax: UID) -> bytes:
    if syntax == DeflatedExplicitVRLittleEndian:
        syntax = ExplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        dataset,
        enforce_file_format=True,
    )
    return buffer.getvalue()


def _look_again(dataset: Dataset, data: bytes, walk: Walk) -> None:
    """Look through the finished bytes for any longer value that was taken out."""
    # Noise in plain pixels spells every name sooner or later; what a coder packed does not.
    packed = dataset.file_meta.TransferSyntaxUID in CODESTREAMS
    pixels = next((dataset[tag].value for tag in PIXELS if tag in dataset), None) or b""
    before, _, after = data.partition(pixels) if pixels else (data, b"", b"")
    if any(map(walk.identity.found_in_bytes, (before, after))) or (
        walk.identity.found_in_bytes(pixels, parts=packed, greys=not packed)
    ):
        raise Refused("survivor", "an identifying value is still in the result")
    if 0x00020000 in dataset or any(element.tag.group == 2 for element in dataset):
        raise Refused("survivor", "file meta inside the data set")
    if any(tag in item for tag in PIXELS for _, item in _nested(dataset)):
        raise Refused("survivor", "an image inside a sequence")


def _nested(dataset: Dataset) -> list[tuple[int, Dataset]]:
    found = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value or ():
                found.append((int(element.tag), item))
                found.extend(_nested(item))
    return found
