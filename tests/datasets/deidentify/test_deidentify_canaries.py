"""Canary values in every attribute of the standard's table: none may be left in the result."""

import io
import json
import re

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from wardround.datasets.deidentify.dates import shift_date
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.table import COLUMNS, Option, rules
from wardround.datasets.errors import Refused


def assert_clean(data: bytes, values: list[str]) -> None:
    dataset = dcmread(io.BytesIO(data))
    shown = str(dataset) + str(dataset.file_meta)
    text = {
        str(value).strip()
        for element in dataset.iterall()
        for value in (element.value if element.VM > 1 else [element.value])
    }
    assert not [value for value in values if value in text]
    assert not [value for value in values if len(value) > 8 and value.encode() in data]
    assert "CNRY" not in shown
    assert "Canary" not in shown


def test_the_table_has_the_facts_of_the_standard(shared_data):
    columns = dict(
        zip(
            COLUMNS,
            [
                "rtnSafePrivOpt",
                "rtnUIDsOpt",
                "rtnDevIdOpt",
                "rtnInstIdOpt",
                "rtnPatCharsOpt",
                "rtnLongFullDatesOpt",
                "rtnLongModifDatesOpt",
                "cleanDescOpt",
                "cleanStructContOpt",
                "cleanGraphOpt",
            ],
            strict=True,
        )
    )
    path = shared_data / "dicom" / "standard" / "confidentiality_profile_attributes.json"
    tags, patterns = rules()
    rows = json.loads(path.read_text())
    assert len(rows) == len(tags) + len(patterns)
    for row in rows:
        name = re.sub(r"[(),]", "", row["tag"]).lower()
        if re.fullmatch("[0-9a-f]{8}", name):
            rule = tags[int(name, 16)]
        else:
            rule = patterns["private" if "odd" in name else name]
        assert rule.basic == row["basicProfile"]
        assert dict(rule.options) == {o: row[c] for o, c in columns.items() if row.get(c)}


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
    ids=lambda uid: uid.keyword,
)
def test_no_canary_is_left_under_any_transfer_syntax(build, run, syntax):
    dataset = build.base(build.secondary_capture, "OT")
    canaries = build.canaries()
    build.fill(dataset, canaries, 1)
    build.nested(dataset, canaries, 3)
    if syntax.is_encapsulated:
        compress(dataset, syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    data = build.to_bytes(dataset)
    before = dcmread(io.BytesIO(data)).pixel_array
    result = run(data)
    assert_clean(result.data, canaries.values)
    assert np.array_equal(dcmread(io.BytesIO(result.data)).pixel_array, before)


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
def test_nested_at_any_depth(build, run, depth):
    dataset = build.base()
    canaries = build.canaries()
    build.nested(dataset, canaries, depth)
    assert_clean(run(dataset).data, canaries.values)


def test_nested_beyond_reason_is_refused(build, run):
    dataset = build.base()
    build.nested(dataset, build.canaries(), 80)
    with pytest.raises(Refused, match="deeper"):
        run(dataset)


SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "mammography": "1.2.840.10008.5.1.4.1.1.1.2",
    "segmentation": "1.2.840.10008.5.1.4.1.1.66.4",
    "label map": "1.2.840.10008.5.1.4.1.1.66.7",
    "RT structure set": "1.2.840.10008.5.1.4.1.1.481.3",
    "RT dose": "1.2.840.10008.5.1.4.1.1.481.2",
    "structured report": "1.2.840.10008.5.1.4.1.1.88.33",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
    "encapsulated PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "encapsulated CDA": "1.2.840.10008.5.1.4.1.1.104.2",
    "ECG": "1.2.840.10008.5.1.4.1.1.9.1.1",
    "key object selection": "1.2.840.10008.5.1.4.1.1.88.59",
}


@pytest.mark.parametrize("kind", SOP_CLASSES)
def test_no_canary_is_left_in_any_kind_of_object(build, run, kind):
    """Conditional actions differ by kind; whatever is chosen, the value goes."""
    dataset = build.base(SOP_CLASSES[kind], "OT")
    dataset.BurnedInAnnotation = "NO"
    if kind not in (
        "CT",
        "US",
        "mammography",
        "enhanced MR",
        "segmentation",
        "label map",
        "RT dose",
    ):
        del dataset.PixelData
    if kind.startswith("encapsulated"):
        dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
        dataset.DocumentTitle = "CNRYTITLE of Okonkwo"
    canaries = build.canaries()
    build.fill(dataset, canaries, 1)
    build.nested(dataset, canaries, 2)
    assert_clean(run(dataset).data, canaries.values)


def test_values_repeated_in_attributes_that_stay_are_found(build, run):
    dataset = build.base()
    dataset.PatientName = "Okonkwo^Adaeze"
    dataset.AccessionNumber = "ACC99812"
    dataset.ManufacturerModelName = "scanner of okonkwo"
    dataset.ReceiveCoilName = "HEAD ACC99812"
    dataset.SequenceName = "se_MRN-4471902"
    dataset.ScanOptions = "ACC99812"
    dataset.SoftwareVersions = ["VA1", "1952-03-14"]
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-1", "SRT", "Adaeze"
    dataset.AnatomicRegionSequence = [item]
    dataset.add_new(0x00282000, "OB", b"profile of MRN-4471902")
    result = run(dataset)
    for value in (b"konkwo", b"ACC99812", b"4471902", b"daeze", b"1952"):
        assert value not in result.data
    assert result.counts["repeated_values_removed"] >= 6


def test_codes_and_geometry_that_name_nobody_stay(build, run):
    dataset = build.base()
    dataset.SeriesDescription, dataset.ProtocolName = "MOSAIC", "HIPPOCAMPUS"
    dataset.PatientName, dataset.StudyDescription = "Head^Mary", "T1 AXIAL CHEST"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    dataset.BodyPartExamined, dataset.PatientPosition = "HIPPOCAMPUS", "HFS"
    dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "Prisma_fit"
    dataset.EchoTime, dataset.SequenceName = "2.98", "*tfl3d1"
    item = type(dataset)()
    item.CodeValue, item.CodingSchemeDesignator = "69536005", "SCT"
    item.CodeMeaning = "Brain"
    dataset.AnatomicRegionSequence = [item]
    before = dcmread(io.BytesIO(build.to_bytes(dataset)))
    after = dcmread(io.BytesIO(run(dataset).data))
    for name in (
        "ImageType",
        "BodyPartExamined",
        "PatientPosition",
        "Manufacturer",
        "ManufacturerModelName",
        "EchoTime",
        "SequenceName",
        "Modality",
        "SliceThickness",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "Rows",
        "Columns",
        "RescaleSlope",
        "AnatomicRegionSequence",
    ):
        assert after[name].value == before[name].value, name


def test_a_private_coding_scheme_of_what_goes_stays_in_what_stays(build, run):
    dataset = build.base()
    gone, kept = Dataset(), Dataset()
    for item in (gone, kept):
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "7", "SCPECG", "Lead"
        item.CodingSchemeVersion = "2.1-SCPECG"
    dataset.AdmittingDiagnosesCodeSequence, dataset.AnatomicRegionSequence = [gone], [kept]
    after = dcmread(io.BytesIO(run(dataset).data))
    assert "AdmittingDiagnosesCodeSequence" not in after
    assert after.AnatomicRegionSequence[0].CodingSchemeDesignator == "SCPECG"
    assert after.AnatomicRegionSequence[0].CodingSchemeVersion == "2.1-SCPECG"


def test_items_keep_the_attributes_they_are_nothing_without(build, run):
    """A text item has its text, an annotation too, a code its value: dummies."""
    dataset = build.base(SOP_CLASSES["structured report"], "SR")
    del dataset.PixelData
    content, written, code, annotation = Dataset(), Dataset(), Dataset(), Dataset()
    content.RelationshipType, content.ValueType = "CONTAINS", "TEXT"
    content.TextValue = "CNRY seen in the ward"
    written.UnformattedTextValue = "CNRY"
    annotation.TextObjectSequence = [written]
    code.LongCodeValue, code.CodingSchemeDesignator = "CNRY of a code", "99SITE"
    code.URNCodeValue, code.CodeMeaning = "urn:cnry:CNRY", "Brain"
    dataset.ContentSequence, dataset.GraphicAnnotationSequence = [content], [annotation]
    dataset.AnatomicRegionSequence = [code]
    result = run(dataset)
    after = dcmread(io.BytesIO(result.data))
    assert after.ContentSequence[0].ValueType == "TEXT"
    assert after.ContentSequence[0].TextValue == "REMOVED"
    text = after.GraphicAnnotationSequence[0].TextObjectSequence[0]
    assert text.UnformattedTextValue == "REMOVED"
    assert after.AnatomicRegionSequence[0].LongCodeValue == "REMOVED"
    assert after.AnatomicRegionSequence[0].URNCodeValue == "urn:removed"
    assert b"CNRY" not in result.data


def test_a_long_code_of_a_public_scheme_stays(build, run):
    dataset, code = build.base(), Dataset()
    code.LongCodeValue, code.CodingSchemeDesignator = "900000000000207008", "SCT"
    code.CodeMeaning, code.ContextUID = "Core", "1.2.840.10008.6.1.308"
    dataset.AnatomicRegionSequence = [code]
    after = dcmread(io.BytesIO(run(dataset).data)).AnatomicRegionSequence[0]
    assert after.LongCodeValue == "900000000000207008"
    assert after.ContextUID == "1.2.840.10008.6.1.308"


def test_a_reference_says_what_for_and_nothing_else(build, run):
    """Type 1 in derived images, a segmentation's among them."""
    dataset = build.base(SOP_CLASSES["segmentation"], "SEG")
    image, purpose, derivation = Dataset(), Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    purpose.MappingResourceName = "CNRY of a resource"
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = build.mr, "1.2.3.4.5.6.7"
    image.PurposeOfReferenceCodeSequence, image.PatientName = [purpose], "CNRY^B"
    image.PatientOrientation = ["CNRY", "F"]
    derivation.SourceImageSequence = [image]
    dataset.DerivationImageSequence = [derivation]
    result = run(dataset)
    (after,) = dcmread(io.BytesIO(result.data)).DerivationImageSequence[0].SourceImageSequence
    assert after.ReferencedSOPInstanceUID.startswith("2.25.")
    kept = after.PurposeOfReferenceCodeSequence[0]
    assert (kept.CodeValue, kept.CodingSchemeDesignator) == ("121322", "DCM")
    assert kept.CodeMeaning == "Source image for image processing operation"
    assert len(after) == 3
    assert b"CNRY" not in result.data


def test_private_blocks_go_wherever_they_are(build, run):
    dataset = build.base()
    item = Dataset()
    for target in (dataset, item):
        for group in (0x0009, 0x0029, 0x0099, 0x7FE1):
            block = target.private_block(group, f"CNRYCREATOR{group}", create=True)
            block.add_new(1, "LO", "CNRYPRIVATE1")
            block.add_new(2, "PN", "Canary^Private")
            block.add_new(3, "UN", b"CNRYPRIVATE2")
            inner = Dataset()
            inner.PatientName = "Canary^Private"
            block.add_new(4, "SQ", [inner])
    dataset.AnatomicRegionSequence = [item]
    result = run(dataset)
    assert b"CNRY" not in result.data
    assert b"Canary" not in result.data
    assert not [e.tag for e in dcmread(io.BytesIO(result.data)).iterall() if e.tag.is_private]


def test_safe_private_numbers_stay_only_with_the_option(build, run):
    dataset = build.base()
    block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "0.000276")
    block.add_new(0x03, "ST", "CNRYFILENAME")
    other = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    other.add_new(0x0C, "IS", "1000")
    other.add_new(0x0B, "LO", "CNRYTEXT")
    assert (0x7053, 0x1000) not in dcmread(io.BytesIO(run(dataset).data))
    kept = run(dataset, Profile(frozenset({Option.SAFE_PRIVATE})))
    result = dcmread(io.BytesIO(kept.data))
    assert result[0x7053, 0x1000].value == 0.000276
    assert result[0x0019, 0x100C].value == 1000
    assert b"CNRY" not in kept.data


def test_overlays_curves_icons_and_unknown_attributes_go(build, run):
    dataset = build.base()
    dataset.add_new(0x60000010, "US", 16)
    dataset.add_new(0x60003000, "OW", b"CNRYOVERLAY!" * 2)
    dataset.add_new(0x60220022, "LO", "CNRYOVERLAYTEXT")
    dataset.add_new(0x50003000, "OW", b"CNRYCURVE!")
    dataset.add_new(0x00082FFE, "LO", "CNRYUNKNOWN")
    dataset.add_new(0xFFFCFFFC, "OB", b"CNRYPADDING!")
    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.add_new(0x7FE00010, "OB", b"CNRYICONPIXELS!!")
    dataset.IconImageSequence = [icon]
    dataset.AnatomicRegionSequence = [icon]
    assert b"CNRY" not in run(dataset).data


def test_bytes_behind_the_pixels_and_in_compressed_comments_go(build, run):
    native = build.base()
    native.PixelData += b"CNRYBEHIND"
    assert b"CNRY" not in run(native).data
    packed = build.base()
    compress(packed, JPEG2000Lossless, generate_instance_uid=False)
    codestream = packed.PixelData
    at = codestream.index(b"\xff\x52")  # a comment before the coding style segment
    comment = b"\xff\x64" + (4 + 12).to_bytes(2) + b"\0\1" + b"CNRYCOMMENT!"
    grown = codestream[:at] + comment + codestream[at:]
    # After the offset table (8 bytes and one offset) stands the frame's tag, then its length.
    length = int.from_bytes(grown[16:20], "little") + len(comment)
    packed.PixelData = grown[:16] + length.to_bytes(4, "little") + grown[20:]
    packed["PixelData"].is_undefined_length = True
    data = build.to_bytes(packed)
    assert b"CNRYCOMMENT" in data
    result = run(data)
    assert b"CNRYCOMMENT" not in result.data
    assert np.array_equal(dcmread(io.BytesIO(result.data)).pixel_array, build.smooth())


def test_dates_move_by_one_number_of_days_for_all_of_a_patient(build, run):
    profile = Profile(frozenset({Option.MODIFIED_DATES}))
    dataset = build.base()
    dataset.SeriesDate, dataset.AcquisitionDateTime = "20210910", "20210910112233.5+0100"
    dataset.StudyTime = "112233"
    result = dcmread(io.BytesIO(run(dataset, profile).data))
    assert result.StudyDate != "20210907"
    assert shift_date(result.SeriesDate, 3) == result.StudyDate
    assert result.AcquisitionDateTime == f"{result.SeriesDate}112233.5"
    assert result.StudyTime == "112233"
    assert result.PatientBirthDate == ""
    assert result.LongitudinalTemporalInformationModified == "MODIFIED"


@pytest.mark.parametrize("option", [o for o in Option if o is not Option.PIXELS])
def test_an_option_lets_through_only_what_it_retains(build, run, option):
    """Canaries of attributes without K or C under the option are gone all the same."""
    dataset = build.base()
    canaries = build.canaries()
    build.fill(dataset, canaries, 1)
    names = {}
    for element in dataset:
        if element.VR == "SQ" and element.value and "CodeMeaning" in element.value[0]:
            names[element.value[0].CodeMeaning] = int(element.tag)
        if element.VR not in ("SQ", "UI") and str(element.value) in canaries.values:
            names[str(element.value)] = int(element.tag)
    result = run(dataset, Profile(frozenset({option})))
    left = {str(element.value) for element in dcmread(io.BytesIO(result.data)).iterall()}
    for value, tag in names.items():
        letter = dict(rules()[0][tag].options).get(option)
        if letter != "K" and not (letter == "C" and option is Option.MODIFIED_DATES):
            assert value not in left
