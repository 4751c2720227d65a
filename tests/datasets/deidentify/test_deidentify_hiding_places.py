"""Where a patient's name, number or birthday hides although every attribute was seen to: written
another way, as numbers, behind data, inside a compressed picture.
"""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import compress
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from wardround.datasets.deidentify.frames import MAX_FRAME_PIXELS, check_size
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.streams import blank_comments
from wardround.datasets.deidentify.table import Option
from wardround.datasets.errors import Refused

NAME = b"Okonkwo Adaeze"
ALL = Profile(frozenset(o for o in Option if o not in (Option.FULL_DATES, Option.PIXELS)))


def read(result) -> Dataset:
    return dcmread(io.BytesIO(result.data))


@pytest.mark.parametrize("profile", [Profile(), ALL])
@pytest.mark.parametrize(
    "text",
    [
        "B 14.03.52",
        "14/3/52",
        "520314",
        "14031952",
        "14-MAR-1952",
        "14. März 1952",
        "Mar 14, 1952",
        "14 mars 52",
        "1952/3/14",
    ],
)
def test_a_birthday_written_another_way(build, run, profile, text):
    dataset = build.base()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ReceiveCoilName = text
    assert read(run(dataset, profile)).ReceiveCoilName == "REMOVED"


@pytest.mark.parametrize("text", ["VB17A", "12.5.1", "syngo MR E11", "Head_32", "2.5.14", "8 ch"])
def test_a_version_is_no_birthday(build, run, text):
    dataset = build.base()
    dataset.ReceiveCoilName = text
    assert read(run(dataset)).ReceiveCoilName == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Müller^Jörg", "MULLER"),
        ("Müller^Jörg", "coil of Mueller"),
        ("Müller^Jörg", "Joerg"),
        ("Müller^Jörg", "Mu\u0308ller"),
        ("Mueller^Ida", "Müller"),
        ("Łukasz^Ødegård", "LUKASZ"),
        ("Łukasz^Ødegård", "Odegard"),
        ("Đỗ^Ngọc", "NGOC"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ"),
        ("สมชาย^ใจดี", "สมชาย"),
    ],
)
def test_a_name_with_other_accents(build, run, name, text):
    dataset = build.base()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.ReceiveCoilName = name, text
    assert read(run(dataset)).ReceiveCoilName == "REMOVED"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SeriesNumber", "4471902"),
        ("SliceLocation", "4471902.0"),
        ("SliceLocation", "4.471902e6"),
        ("AcquisitionNumber", "19520314"),
        ("SamplingFrequency", "20210907"),
        ("RegionFlags", 4471902),
        ("DopplerCorrectionAngle", 19520314.0),
    ],
)
def test_a_record_number_or_a_day_as_a_number(build, run, keyword, value):
    dataset = build.base()
    setattr(dataset, keyword, value)
    assert float(read(run(dataset))[keyword].value) == 0


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00280106, "US"),
        (0x00189079, "FD"),
        (0x00189461, "FL"),
        (0x00280009, "AT"),
        (0x00186020, "SL"),
        (0x00186018, "UL"),
        (0x00200032, "US"),
        (0x00281053, "FD"),
        (0x00283006, "OW"),
    ],
)
def test_letters_where_numbers_belong(build, run, tag, vr):
    """Of somebody else's name, which no other attribute betrays."""
    dataset = build.base()
    wide = {"US": "H", "FD": "d", "FL": "f", "AT": "L", "SL": "l", "UL": "L"}.get(vr)
    text = b"KOWALCZYKMARIANN" * 2
    numbers = [n for (n,) in struct.iter_unpack(f"<{wide}", text)] if wide else text
    dataset.add(DataElement(tag, vr, numbers))
    data = build.to_bytes(dataset)
    assert b"OWALCZYK" in data or vr == "AT"
    result = run(data)
    assert b"OWALCZYK" not in result.data
    assert tag not in read(result)


def test_numbers_that_are_numbers_stay(build, run):
    dataset = build.base()
    dataset.SmallestImagePixelValue = 16705  # "AA"
    dataset.DiffusionGradientOrientation = [0.57735026919, -0.57735026919, 0.57735026919]
    dataset.SliceLocation = "19520.314"
    result = read(run(dataset))
    assert result.SmallestImagePixelValue == 16705
    assert result.DiffusionGradientOrientation[1] == -0.57735026919
    assert result.SliceLocation == 19520.314


@pytest.mark.parametrize("number", ["00000000", "33333333"])
def test_a_placeholder_for_a_record_number_is_no_part_of_a_decimal(build, run, number):
    dataset = build.base()
    dataset.PatientID = number
    dataset.PixelSpacing = [f"0.{number[0]}{number}", f"1.{number}"]
    after = dcmread(io.BytesIO(run(dataset).data))
    assert [float(each) for each in after.PixelSpacing] == [
        float(f"0.{number[0]}{number}"),
        float(f"1.{number}"),
    ]
    assert after.PatientID != number


def test_the_patients_number_inside_a_uid_that_an_option_keeps(build, run):
    kept = Profile(frozenset({Option.UIDS}))
    dataset = build.base()
    dataset.SeriesInstanceUID = "1.2.826.0.4471902.7"
    dataset.SOPInstanceUID = "1.2.826.0.4471902.7.1"
    item = Dataset()
    item.ReferencedSOPClassUID = build.mr
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    dataset.ReferencedImageSequence = [item]
    result = run(dataset, kept)
    after = read(result)
    assert b"4471902" not in result.data
    assert after.StudyInstanceUID == dataset.StudyInstanceUID
    assert result.uid == after.ReferencedImageSequence[0].ReferencedSOPInstanceUID


def palette(build, bits: int, behind: bytes) -> Dataset:
    dataset = build.with_pixels(build.base(), build.smooth(), "PALETTE COLOR")
    table = np.arange(256).astype(f"<u{bits // 8}").tobytes()
    for number in range(3):
        dataset.add_new(0x00281101 + number, "US", [256, 0, bits])
        dataset.add_new(0x00281201 + number, "OW", table + behind)
    return dataset


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("behind", [b"of Kowalczyk", b"\1\2"])
def test_bytes_behind_a_palette(build, run, bits, behind):
    result = run(palette(build, bits, behind))
    assert np.array_equal(read(result).pixel_array, build.smooth())
    table = read(result).RedPaletteColorLookupTableData
    assert table == read(run(palette(build, bits, b""))).RedPaletteColorLookupTableData


def test_bytes_behind_a_curve_or_a_lookup_table(build, run):
    group, table = Dataset(), Dataset()
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = 2, 10
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.add_new(0x54001010, "OW", bytes(range(40)) + b"of Kowalczyk")
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "HU"
    table.add_new(0x00283006, "OW", bytes(range(8)) + b"of Kowalczyk")
    dataset = build.base("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG")
    del dataset.PixelData
    dataset.WaveformSequence, dataset.ModalityLUTSequence = [group], [table]
    result = run(dataset)
    assert b"Kowalczyk" not in result.data
    assert read(result).WaveformSequence[0].WaveformData == bytes(range(40))
    assert read(result).ModalityLUTSequence[0].LUTData == bytes(range(8))
    assert result.counts["surplus_removed"] == 2


def packed(build, syntax: str, frame: bytes) -> Dataset:
    dataset = build.base()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_a_name_inside_a_jpeg_scan_or_a_table_no_scan_uses(build, run):
    buffer = io.BytesIO()
    Image.fromarray(build.smooth()).save(buffer, "JPEG")
    frame = buffer.getvalue()
    end = frame.rindex(b"\xff\xd9")
    table = b"\xff\xdb\x00\x43\x03" + NAME.ljust(64)
    assert run(packed(build, JPEGBaseline8Bit, frame)).counts["pixels_tidied"] <= 1
    for odd in (frame[:end] + NAME + frame[end:], frame[:2] + table + frame[2:]):
        with pytest.raises(Refused) as refused:
            run(packed(build, JPEGBaseline8Bit, odd))
        assert refused.value.reason == "survivor"


def codestream(build) -> bytes:
    dataset = build.base()
    compress(dataset, JPEG2000Lossless, generate_instance_uid=False)
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def test_text_behind_a_last_tile_without_a_length(build, run):
    """A second end marker makes the text look like a part of the tile."""
    frame = bytearray(codestream(build))
    tile = frame.index(b"\xff\x90")
    frame[tile + 6 : tile + 10] = bytes(4)
    result = run(packed(build, JPEG2000Lossless, bytes(frame) + b"of Kowalczyk\xff\xd9"))
    assert b"Kowalczyk" not in result.data
    assert np.array_equal(read(result).pixel_array, build.smooth())


def test_planes_that_the_header_does_not_tell(build):
    """A codestream of 16,384 planes unpacks to that many times the picture."""
    frame = bytearray(codestream(build))
    size = frame.index(b"\xff\x51")
    assert frame[size + 38 : size + 40] == b"\0\1"
    frame[size + 38 : size + 40] = b"\x40\0"
    with pytest.raises(Refused):
        blank_comments(bytes(frame), 64, 64)


def test_a_frame_of_gigapixels_is_refused_before_it_is_decoded(build):
    """A few kilobytes of one colour in JPEG 2000 would take all memory."""
    dataset = build.base()
    dataset.Rows = dataset.Columns = 65535
    with pytest.raises(Refused) as refused:
        check_size(dataset, 1 << 40)
    assert refused.value.reason == "too_large"
    dataset.Rows, dataset.Columns = 10_000, MAX_FRAME_PIXELS // 10_000
    check_size(dataset, 1 << 40)


def test_millions_of_empty_items_are_refused_unread(build, run, monkeypatch):
    monkeypatch.setattr("wardround.datasets.deidentify.reading._MAX_ITEMS", 1000)
    dataset = build.base()
    dataset.AnatomicRegionSequence = [Dataset() for _ in range(999)]
    run(dataset)
    dataset.AnatomicRegionSequence = [Dataset() for _ in range(1001)]
    with pytest.raises(Refused) as refused:
        run(dataset)
    assert refused.value.reason == "expands"


def test_a_name_as_a_code_that_an_option_keeps(build, run):
    dataset = build.base()
    dataset.PatientSex, dataset.SmokingStatus, dataset.EthnicGroup = "OKONKWO", "NO", "Igbo"
    result = read(run(dataset, Profile(frozenset({Option.PATIENT}))))
    assert (result.PatientSex, result.SmokingStatus, result.EthnicGroup) == (
        "REMOVED",
        "NO",
        "Igbo",
    )


def test_a_code_outside_of_any_sequence(build, run):
    """What is left of a sequence whose header was damaged."""
    dataset = build.base()
    dataset.CodeMeaning, dataset.CodeValue, dataset.LongCodeValue = "Kowalczyk", "K1", "Kowalczyk"
    result = run(dataset)
    assert b"Kowalczyk" not in result.data
    assert "CodeValue" not in read(result)
