"""Pixels: they stay as they are, whatever their form; what rides along with them goes."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from wardround.datasets.deidentify.frames import grey_planes
from wardround.datasets.deidentify.profile import Box, Profile
from wardround.datasets.deidentify.streams import blank_comments
from wardround.datasets.deidentify.table import Option
from wardround.datasets.errors import Refused

CLEAN_PIXELS = frozenset({Option.PIXELS})


def pixels_of(data: bytes) -> np.ndarray:
    return dcmread(io.BytesIO(data)).pixel_array


def variants(build):
    grey = build.smooth()
    colour = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    yield "MONOCHROME1", grey, {}
    yield "MONOCHROME2", grey, {}
    yield "RGB", colour, {}
    yield "RGB", np.stack([colour] * 3), {}
    yield "YBR_FULL", colour, {}
    yield "MONOCHROME2", np.stack([grey] * 5), {}
    yield "MONOCHROME2", (grey.astype(np.int16) * 8 - 1024), {"BitsStored": 12, "HighBit": 11}
    yield "MONOCHROME2", grey.astype(np.uint16) * 16, {"BitsStored": 12, "HighBit": 11}
    yield "MONOCHROME2", grey.astype(np.uint32) * 70_000, {}
    yield "MONOCHROME2", build.smooth(33, 35), {}


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
def test_pixels_are_the_same_numbers_afterwards(build, run, number, syntax):
    photometric, pixels, header = list(variants(build))[number]
    dataset = build.with_pixels(build.base(), pixels, photometric)
    for name, value in header.items():
        setattr(dataset, name, value)
    if syntax is ExplicitVRBigEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        # Bytes lie in words of 16 bits (OW), so that single bytes change places too.
        content = bytes(dataset.PixelData)
        kind = "u2" if pixels.itemsize == 1 else pixels.dtype
        dataset["PixelData"].value = np.frombuffer(content, kind).byteswap().tobytes()
    elif syntax is not None:
        if pixels.itemsize == 4 or (syntax is JPEG2000Lossless and photometric == "YBR_FULL"):
            pytest.skip("the standard has no such form")
        compress(dataset, syntax, generate_instance_uid=False)
    data = build.to_bytes(dataset)
    result = run(data)
    assert np.array_equal(pixels_of(result.data), pixels_of(data))
    before, after = dcmread(io.BytesIO(data)), dcmread(io.BytesIO(result.data))
    for name in ("Rows", "Columns", "BitsStored", "PhotometricInterpretation", "RescaleSlope"):
        assert after[name].value == before[name].value
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID


def jpeg(build, frames: int = 1):
    """A JPEG baseline object whose frames carry EXIF, a comment and bytes behind their end."""
    packed = []
    for _ in range(frames):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x010E] = "CNRYEXIF Okonkwo"
        picture = Image.fromarray(build.smooth())
        picture.save(buffer, "JPEG", exif=exif, comment=b"CNRYCOMMENT", quality=90)
        packed.append(buffer.getvalue() + b"CNRYBEHIND!!")
    dataset = build.base()
    dataset.PixelData = encapsulate(packed)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    if frames > 1:
        dataset.NumberOfFrames = frames
    return dataset


@pytest.mark.parametrize("frames", [1, 3])
def test_what_rides_in_a_jpeg_goes_and_its_pixels_stay(build, run, frames):
    data = build.to_bytes(jpeg(build, frames))
    assert data.count(b"CNRYEXIF") == frames
    result = run(data)
    assert b"CNRY" not in result.data
    assert np.array_equal(pixels_of(result.data), pixels_of(data))
    assert result.counts["pixels_tidied"] == frames


def test_a_jpeg_of_another_size_than_its_header_is_refused(build, run):
    dataset = jpeg(build)
    dataset.Rows = 32
    with pytest.raises(Refused) as caught:
        run(dataset)
    assert caught.value.reason == "pixels_unreadable"


@pytest.mark.parametrize("cut", [0.01, 0.1, 0.5, 0.9])
def test_a_broken_jpeg_is_refused(build, cut):
    buffer = io.BytesIO()
    Image.fromarray(build.smooth()).save(buffer, "JPEG")
    with pytest.raises(Refused):
        blank_comments(buffer.getvalue()[: int(cut * buffer.tell())], 64, 64)


def test_bits_above_the_stored_ones_are_cleared(build, run):
    """Old files keep overlays there."""
    dataset = build.with_pixels(build.base(), build.smooth().astype(np.uint16))
    dataset.BitsStored, dataset.HighBit = 12, 11
    hidden = np.frombuffer(dataset.PixelData, "<u2") | 0x8000
    dataset["PixelData"].value = hidden.astype("<u2").tobytes()
    result = run(dataset)
    assert pixels_of(result.data).max() < 1 << 12


def test_known_places_are_painted_over_with_the_option(build, run):
    dataset = build.base()
    dataset.BurnedInAnnotation = "YES"
    with pytest.raises(Refused, match="Burned In"):
        run(dataset)
    profile = Profile(CLEAN_PIXELS, boxes=(Box(0, 0, 64, 10),))
    result = dcmread(io.BytesIO(run(dataset, profile).data))
    before = build.smooth()
    assert not result.pixel_array[:10].any()
    assert np.array_equal(result.pixel_array[10:], before[10:])
    assert result.BurnedInAnnotation == "NO"
    codes = [item.CodeValue for item in result.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101"]


@pytest.mark.parametrize("photometric", ["RGB", "MONOCHROME1"])
def test_outside_the_ultrasound_regions_nothing_is_left(build, run, photometric):
    grey = build.smooth()
    pixels = np.stack([np.stack([grey] * 3, axis=-1)] * 2) if photometric == "RGB" else grey
    dataset = build.with_pixels(
        build.base("1.2.840.10008.5.1.4.1.1.6.1", "US"), pixels, photometric
    )
    region = type(dataset)()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 8, 16
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 55, 63
    dataset.SequenceOfUltrasoundRegions = [region]
    compress(dataset, RLELossless, generate_instance_uid=False)
    with pytest.raises(Refused, match="unless it says NO"):
        run(dataset)
    result = dcmread(io.BytesIO(run(dataset, Profile(CLEAN_PIXELS)).data))
    painted = result.pixel_array.reshape(-1, 64, 64, 3 if photometric == "RGB" else 1)
    outside = np.ones((64, 64), bool)
    outside[16:64, 8:56] = False
    assert (painted[:, outside] == (255 if photometric == "MONOCHROME1" else 0)).all()
    assert np.array_equal(painted[0, 16:64, 8:56, 0], grey[16:64, 8:56])


def test_every_frame_is_looked_at(build):
    frames = np.stack([build.smooth()] * 7)
    dataset = build.with_pixels(build.base(), frames)
    assert len(list(grey_planes(dataset))) == 7


def test_an_undecodable_image_is_refused(build, run):
    dataset = jpeg(build)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    with pytest.raises(Refused) as caught:
        run(dataset)
    assert caught.value.reason == "pixels_unreadable"


@pytest.mark.parametrize("number", ["00000123", "XXXXXXXX", "12345678"])
def test_greys_that_spell_a_record_number_by_chance(build, run, number):
    """As placeholders and short numbers filled up with zeros do, in dark or even parts."""
    dataset = build.base()
    dataset.PatientID = number
    pixels = build.smooth()
    pixels[5, 10:18] = list(number.encode())
    build.with_pixels(dataset, pixels)
    assert np.array_equal(dcmread(io.BytesIO(run(dataset).data)).pixel_array, pixels)


def test_a_name_that_plain_pixels_spell(build, run):
    dataset = build.base()
    pixels = build.smooth()
    pixels[5, 10:24] = list(b"Okonkwo^Adaeze")
    build.with_pixels(dataset, pixels)
    with pytest.raises(Refused, match="still in the result"):
        run(dataset)
