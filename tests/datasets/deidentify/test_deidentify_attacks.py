"""Files made to smuggle something through: each test is named after what it tries."""

import io
import struct

import numpy as np
import pytest
from pydicom import dcmread
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import compress
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from wardround.datasets.deidentify import codes
from wardround.datasets.deidentify.icc import blank_texts
from wardround.datasets.deidentify.instance import deidentify
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.reading import Content
from wardround.datasets.deidentify.streams import blank_comments, blank_rle
from wardround.datasets.deidentify.table import COLUMNS, Option, every_rule, rules
from wardround.datasets.deidentify.text import Identity
from wardround.datasets.errors import Refused

MARK = b"MARKMARK"
NUMBERS = {
    "DS": lambda n: f"{n}.57",
    "IS": lambda n: f"{70000 + n}",
    "FD": lambda n: n + 0.125,
    "FL": lambda n: n + 0.125,
    "UL": lambda n: 7_000_000 + n,
    "US": lambda n: n % 60_000,
    "AS": lambda n: f"{n % 89:03}D",
}
CLEANERS = [Option.DESCRIPTORS, Option.STRUCTURED, Option.GRAPHICS]


def options(*on: Option) -> Profile:
    return Profile(frozenset(on))


def read(result) -> Dataset:
    return dcmread(io.BytesIO(result.data))


def raw(tag: int, vr: str, value: bytes) -> bytes:
    """An element in explicit little endian, whatever its VR may hold."""
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    long = vr in {"OB", "OW", "UN", "UT", "UR", "SQ"}
    return head + (struct.pack("<HI" if long else "<H", *([0] if long else []), len(value))) + value


def smuggled(build, *elements: bytes) -> bytes:
    """A file of the usual kind with raw elements before its others."""
    dataset = build.base()
    for element in elements:
        group, number = struct.unpack("<HH", element[:4])
        if (group << 16 | number) in dataset:
            del dataset[group << 16 | number]
    data = build.to_bytes(dataset)
    start = 144 + struct.unpack("<I", data[140:144])[0]
    return data[:start] + b"".join(elements) + data[start:]


def marked(build, vr: str, number: int) -> object:
    canary = build.canaries(number=number).make(vr)
    return NUMBERS[vr](number) if canary is None and vr in NUMBERS else canary


def test_what_is_added_to_the_table_is_named_as_the_standard_names_it():
    text = (codes.__file__).replace("codes.py", "beyond.txt")
    with open(text, encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    for tag, _, _, keyword in lines:
        assert DicomDictionary[int(tag, 16)][4] == keyword
        assert int(tag, 16) not in rules()[0]


@pytest.mark.parametrize("option", [o for o in COLUMNS if o is not Option.MODIFIED_DATES])
def test_an_option_keeps_what_the_table_says_it_keeps(build, run, option):
    """Also a serial number of eight digits, or a hospital that is called like the patient."""
    dataset = build.base()
    for number, tag in enumerate(rules()[0], 1):
        vr = DicomDictionary.get(tag, ("SQ",))[0].split(" or ")[0]
        if vr == "SQ" and tag in DicomDictionary:
            item = Dataset()
            item.CodeMeaning = f"Room {90817000 + number}"
            dataset.add(DataElement(tag, "SQ", [item]))
        if vr in ("SQ", "NONE") or tag >> 16 <= 4 or tag in (0x00080016, 0x7FE00010, 0x00280301):
            continue
        value = marked(build, vr, number)
        if value is not None:
            dataset.add(DataElement(tag, vr, value))
    dataset.DeviceSerialNumber, dataset.InstitutionName = "90817263", "Okonkwo Clinic"
    dataset.BurnedInAnnotation = "NO"
    dataset.StudyDate = dataset.PatientBirthDate = "19520314"
    before, after = (
        dcmread(io.BytesIO(build.to_bytes(dataset))),
        read(run(dataset, options(option))),
    )
    for tag in rules()[0]:
        if dict(rules()[0][tag].options).get(option) == "K" and tag in dataset:
            assert after[tag].value == before[tag].value, hex(tag)


def test_a_sequence_replaced_by_a_dummy_holds_no_number_of_its_own(build, run):
    """Numbers, codes and bytes of an item, at any depth, whatever their VR."""
    inner = Dataset()
    for number, tag in enumerate(list(DicomDictionary)[::9], 1):
        vr = DicomDictionary[tag][0].split(" or ")[0]
        if tag >> 16 > 8 and vr in {"DS", "IS", "FD", "FL", "UL", "CS", "OB", "LO", "UT", "AE"}:
            value = marked(build, vr, number)
            inner.add(DataElement(tag, vr, value))
    outer = Dataset()
    outer.ValueType, outer.RelationshipType = "CONTAINER", "CONTAINS"
    outer.ConceptNameCodeSequence = [inner]
    for keyword in ("ContentSequence", "VerifyingObserverSequence", "GraphicAnnotationSequence"):
        dataset = build.base()
        setattr(dataset, keyword, [outer, outer])
        after = read(run(dataset))[keyword]
        assert len(after.value) == 1
        assert after.value[0].ValueType == "CONTAINER"
        for element in after.value[0].iterall():
            if element.VR in {"DS", "IS", "FD", "FL", "UL"}:
                assert not np.any(np.asarray(element.value, float)), element.tag
        assert "CNRY" not in str(after)


@pytest.mark.parametrize("option", CLEANERS)
def test_a_sequence_cleaned_by_an_option_keeps_no_text_of_its_own(build, run, option):
    """A code string, bytes, and codes that only claim to be of a public scheme."""
    item = Dataset()
    item.ValueType, item.RelationshipType = "TEXT", "HAS OBS CONTEXT"
    item.TextValue = "nodule of Kowalczyk, left lung, 12 mm"
    item.GraphicType, item.BodyPartExamined = "POLYLINE", "KOWALCZYK"
    item.NumericValue, item.SeriesNumber = "12.5", "19520314"
    item.ICCProfile = MARK
    code, fake = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "12738006", "SCT"
    code.CodeMeaning = "Brain of Kowalczyk"
    fake.CodeValue, fake.CodingSchemeDesignator, fake.CodeMeaning = "KOWALCZYK", "SCT", "Kowalczyk"
    item.ConceptNameCodeSequence, item.ConceptCodeSequence = [code], [fake]
    for tag, rule in every_rule().items():
        if (option, "C") in rule.options and DicomDictionary[tag][0] == "SQ":
            dataset = build.base()
            dataset.add(DataElement(tag, "SQ", [item]))
            result = run(dataset, options(option))
            assert b"owalczyk" not in result.data.lower()
            assert MARK not in result.data
            kept = read(result)[tag].value[0]
            assert (kept.ValueType, kept.RelationshipType) == ("TEXT", "HAS OBS CONTEXT")
            assert (kept.GraphicType, kept.NumericValue) == ("POLYLINE", 12.5)
            assert kept.SeriesNumber != 19520314
            assert kept.ConceptNameCodeSequence[0].CodeValue == "12738006"


@pytest.mark.parametrize("vr", ["UN", "OB", "LO", "UT", "UR", "CS", "SH"])
def test_a_text_in_an_attribute_of_dates_or_numbers(build, run, vr):
    """No option keeps or moves what has not the form its attribute asks for."""
    every = options(
        *(o for o in Option if o not in (Option.FULL_DATES, Option.UIDS, Option.PIXELS))
    )
    for profile in (Profile(), every, options(Option.FULL_DATES, Option.UIDS)):
        for tag in (0x00101010, 0x00080020, 0x00080030, 0x0020000D, 0x00101030, 0x00081115):
            assert MARK not in run(smuggled(build, raw(tag, vr, MARK)), profile).data


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("Okonkwo^Adaeze", "1", "OkonkwoAdaeze"),
        ("Okonkwo^Adaeze", "1", "okonkwoA_5"),
        ("Okonkwo^Adaeze", "1", "ADAEZE"),
        ("A^B", "MRN-4471902", "MRN4471902"),
        ("A^B", "MRN-4471902", "4471902"),
        ("A^B", "4711", "COIL 4711"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "1", "x太郎"),
        ("Мария^Орлова", "1", "снимок Орлова"),
    ],
)
def test_the_patient_inside_other_words(build, run, name, number, text):
    dataset = build.base()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID, dataset.ReceiveCoilName = name, number, text
    dataset.ImageType = ["ORIGINAL", "PRIMARY", text.upper() if text.isascii() else "OTHER"]
    result = read(run(dataset))
    assert result.ReceiveCoilName == "REMOVED"
    assert result.ImageType[:2] == ["ORIGINAL", "PRIMARY"]
    assert result.ImageType[2] == ("REMOVED" if text.isascii() else "OTHER")


def test_a_name_inside_a_term_of_the_standard_does_no_harm(build, run):
    dataset = build.base()
    dataset.PatientName, dataset.ReferringPhysicianName = "Chrome^Origin", "Prima^Full"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    result = read(run(dataset))
    assert result.PhotometricInterpretation == "MONOCHROME2"
    assert result.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_a_record_number_written_as_a_number(build, run):
    dataset = build.base()
    dataset.PatientID, dataset.SeriesNumber, dataset.AcquisitionNumber = "4471902", 4471902, 7
    result = read(run(dataset))
    assert (result.SeriesNumber, result.AcquisitionNumber) == (0, 7)


@pytest.mark.parametrize("vr", ["DS", "LO", "UN"])
def test_private_texts_under_the_name_of_a_safe_maker(build, run, vr):
    block = [raw(0x70530010, "LO", b"Philips PET Private Group"), raw(0x70531000, vr, MARK)]
    assert MARK not in run(smuggled(build, *block), options(Option.SAFE_PRIVATE)).data
    shadow = [
        raw(0x70530010, "LO", b"Philips PET Private Group\\" + MARK),
        raw(0x70531000, "DS", b"0.5"),
        raw(0x70530011, "LO", b"Philips PET Private Group"),
        raw(0x70531100, "DS", b"0.25"),
    ]
    result = run(smuggled(build, *shadow), options(Option.SAFE_PRIVATE))
    assert MARK not in result.data
    assert (0x7053, 0x1000) not in read(result)
    assert read(result)[0x7053, 0x1100].value == 0.25


@pytest.mark.parametrize("tag", [0x00082218, 0x0040A730, 0x00400275, 0x00081140, 0x00091001])
@pytest.mark.parametrize("defined", [True, False])
def test_a_sequence_written_as_unknown_bytes(build, run, tag, defined):
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item += struct.pack("<HHL", 0x10, 0x10, 8) + MARK + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    item += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    element = raw(tag, "UN", item)
    if not defined:
        element = element[:8] + b"\xff\xff\xff\xff" + item
    every = options(*(o for o in Option if o not in (Option.FULL_DATES, Option.PIXELS)))
    for profile in (Profile(), every):
        assert MARK not in run(smuggled(build, element), profile).data


def test_texts_in_an_icc_profile(build, run):
    tags = [
        (b"desc", b"desc\0\0\0\0" + MARK * 2),
        (b"rXYZ", b"XYZ \0\0\0\0\0\0\1\2\0\0\3\4\0\0\5\6"),
    ]
    table, body = struct.pack(">L", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">LL", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    profile = bytearray(128) + table + body
    profile[:4], profile[36:40] = len(profile).to_bytes(4), b"acsp"
    profile[48:56] = MARK  # maker and model
    dataset = build.base()
    dataset.ICCProfile = bytes(profile)
    kept = read(run(dataset)).ICCProfile
    assert MARK not in kept
    assert kept[-20:] == tags[1][1]
    assert kept[:4] == profile[:4]
    assert blank_texts(bytes(profile)[:-1]) is None
    dataset.ICCProfile = MARK * 40
    assert "ICCProfile" not in read(run(dataset))


def run_length(build, *, bits: int = 8) -> tuple[Dataset, bytes]:
    pixels = build.smooth() if bits == 8 else build.smooth().astype(np.uint16) * 16
    dataset = build.with_pixels(build.base(), pixels)
    dataset.BitsStored, dataset.HighBit = min(bits, 12), min(bits, 12) - 1
    compress(dataset, RLELossless, generate_instance_uid=False)
    return dataset, next(generate_frames(dataset.PixelData, number_of_frames=1))


def test_bytes_no_run_length_segment_needs(build, run):
    dataset, frame = run_length(build, bits=16)
    at = struct.unpack("<3L", frame[:12])[2]
    between = frame[:8] + struct.pack("<L", at + 8) + frame[12:48] + MARK + frame[56:at]
    dataset.PixelData = encapsulate([between + MARK + frame[at:] + MARK])
    dataset["PixelData"].is_undefined_length = True
    result = run(dataset)
    assert MARK not in result.data
    assert np.array_equal(read(result).pixel_array, build.smooth().astype(np.uint16) * 16)
    for broken in (frame[:40], frame[:70], bytes(64), struct.pack("<2L", 1, 9) + frame[8:]):
        with pytest.raises(Refused):
            blank_rle(broken, 64 * 64)


@pytest.mark.parametrize(
    ("high", "kind", "packed"), [(15, "u2", False), (11, "i2", False), (11, "u2", True)]
)
def test_bits_outside_those_stored(build, run, high, kind, packed):
    """Above or below them, native or compressed: old files keep overlays there."""
    clean = (build.smooth().astype(np.uint16) * 8) << (high - 11)
    unused = 0xFFFF ^ (0xFFF << (high - 11))
    dataset = build.with_pixels(build.base(), (clean | unused).astype(kind))
    dataset.BitsStored, dataset.HighBit = 12, high
    if packed:
        compress(dataset, RLELossless, generate_instance_uid=False)
    result = run(dataset)
    after = read(result)
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(np.frombuffer(after.PixelData, "<u2").reshape(64, 64), clean)
    assert result.counts["pixels_tidied"] == 1


def test_segments_no_decoder_needs(build):
    dataset = build.base()
    compress(dataset, JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    at = frame.index(b"\xff\x52")
    for marker in (b"\xff\x64", b"\xff\x70"):
        odd = frame[:at] + marker + b"\x00\x0c\x00\x01" + MARK + frame[at:]
        assert MARK not in blank_comments(odd, 64, 64)
    jpeg = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64" + MARK[:4] + b"\x01"
    jpeg += b"\xff\xf0\x00\x0a" + MARK + b"\xff\xc0\x00\x0b\x08\x00\x40\x00\x40\x01\x01\x11\x00"
    jpeg += b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x12\x34\xff\xd9"
    cleaned = blank_comments(jpeg, 64, 64)
    assert MARK[:4] not in cleaned
    assert cleaned[17] == 1  # the colour transform


def test_one_patient_under_several_spellings_has_one_pseudonym_and_one_shift(build, run):
    seen = set()
    for spelling in ("MRN-4471902", " mrn-4471902 ", "MRN-4471902\0"):
        dataset = build.base()
        dataset.PatientID = spelling
        result = read(run(dataset, options(Option.MODIFIED_DATES)))
        seen.add((result.PatientID, result.StudyDate))
    assert len(seen) == 1


def test_dates_and_telephones_in_short_numbers(build, run):
    dataset = build.base()
    dataset.StudyDescription = "Chest 14.03.52, call 06 12 34 56 78, slice 12 mm"
    dataset.ProtocolName, dataset.StructureSetLabel = "Kowalski", "Kowalski"
    result = read(run(dataset, options(Option.DESCRIPTORS)))
    assert result.StudyDescription == "Chest slice 12 mm"
    assert "ProtocolName" not in result
    assert result.StructureSetLabel == "REMOVED"


@pytest.mark.parametrize("place", ["../b", "a/b", "..", "/x", "1.2.3/../4", "1.2.3.4 x"])
def test_an_instance_uid_that_is_a_path(build, run, place):
    """A kept UID names the result."""
    data = build.to_bytes(build.base())
    old = raw(0x00080018, "UI", b"1.2.826.0.1.3680043.99.1.1")
    assert old in data
    result = run(data.replace(old, raw(0x00080018, "UI", place.encode())), options(Option.UIDS))
    assert result.uid.startswith("2.25.")
    assert read(result).SOPInstanceUID == result.uid


def test_a_calibration_date_kept_beside_moved_ones_would_tell_the_shift(build, run):
    dataset = build.base()
    dataset.DateOfLastCalibration = "20210907"
    result = read(run(dataset, options(Option.DEVICE, Option.MODIFIED_DATES)))
    assert result.DateOfLastCalibration == result.StudyDate != "20210907"


@pytest.mark.parametrize(("age", "kept"), [("089Y", "089Y"), ("095Y", "090Y"), ("11Y", None)])
def test_ages_above_89(build, run, age, kept):
    data = smuggled(build, raw(0x00101010, "AS", age.encode()))
    assert read(run(data, options(Option.PATIENT))).get("PatientAge") == kept


def test_every_option_at_once_still_takes_out_the_patient(build):
    dataset = build.base()
    build.fill(dataset, build.canaries(), 1)
    dataset.PatientName, dataset.PatientID = "Okonkwo^Adaeze", "MRN-4471902"
    every = options(*(o for o in Option if o is not Option.FULL_DATES))
    data = build.to_bytes(dataset)
    result = deidentify(Content(data, ""), every, Pseudonyms(build.key))
    assert b"konkwo" not in result.data
    assert b"4471902" not in result.data
    items = read(result).DeidentificationMethodCodeSequence
    assert len({item.CodeValue for item in items}) == len(Option)


def test_a_short_uid_counts_as_a_whole_only() -> None:
    identity = Identity()
    identity.add("2.25.111", always=True)
    identity.add("1.2.840.99999.1.2.3.4.5", always=True)
    assert not identity.found_in_bytes(b"UI\x08\x002.25.11178 2.25.1110")
    assert identity.found_in_bytes(b"UI\x08\x002.25.111\x00")
    assert identity.found_in_bytes(b"made of 2.25.111 today")
    assert identity.found_in_bytes(b"x1.2.840.99999.1.2.3.4.51")
