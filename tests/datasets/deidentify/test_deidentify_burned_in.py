"""Burned-in text: seen wherever it stands, and not seen where there is none."""

import hashlib
import io

import benchmarks.real_slices as real_slices
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels import compress
from pydicom.uid import JPEG2000Lossless, RLELossless

from wardround.datasets.deidentify.burned import shows_text
from wardround.datasets.deidentify.frames import grey_planes
from wardround.datasets.errors import Refused

NAMES = ("OKONKWO", "Lindqvist", "IBRAHIM", "Tanaka")
TEXT = "OKONKWO^ADAEZE 14-MAR-1952"


def slab(side: int = 320) -> np.ndarray:
    """A picture of soft shapes and a little noise: grey values 20 to 200, no letters."""
    y, x = np.mgrid[:side, :side] / side
    picture = 40 + 50 * x + 70 * np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.08)
    picture -= 60 * np.exp(-((x - 0.35) ** 2 + (y - 0.45) ** 2) / 0.01)
    noise = np.random.default_rng(5).normal(0, 2, picture.shape)
    return (picture + noise).clip(20, 200)


def written(size: int = 16, at=(8, 8), level: int = 255, side: int = 320, text=TEXT) -> np.ndarray:
    ink = Image.new("L", (side, side), 0)
    ImageDraw.Draw(ink).text(at, text, fill=255, font=ImageFont.load_default(size))
    share = np.asarray(ink, float) / 255
    return slab(side) * (1 - share) + level * share


def assert_seen(run, dataset):
    with pytest.raises(Refused) as caught:
        run(dataset)
    assert caught.value.reason == "burned_in_pixels"


@pytest.mark.parametrize("size", [12, 14, 18, 24, 32])
def test_text_of_many_sizes_is_seen(size):
    assert shows_text(written(size, side=512).astype(np.float32))


@pytest.mark.parametrize("at", [(4, 2), (90, 2), (60, 150), (4, 298), (90, 298)])
def test_text_at_any_place_is_seen(at):
    assert shows_text(written(at=at).astype(np.float32))


@pytest.mark.parametrize("level", [0, 200, 230, 255])
def test_bright_and_dark_text_is_seen(level):
    picture = written(level=level, at=(8, 8 if level else 150)).astype(np.float32)
    assert shows_text(picture)
    assert shows_text(-picture)
    assert shows_text(picture * 16 - 1024)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_text_is_seen(turns):
    assert shows_text(np.rot90(written(), turns).astype(np.float32))


@pytest.mark.parametrize("text", ["MRN 4471902", "14/03/1952", "Okonkwo, Adaeze", "STATIONSNAME"])
def test_short_lines_are_seen(text):
    assert shows_text(written(18, text=text).astype(np.float32))


@pytest.mark.parametrize("pad", [-32768, 65535])
def test_text_is_seen_beside_padding_far_outside_the_tissue(pad):
    picture = written(at=(40, 40))
    picture[:, :20] = pad
    picture[:, -20:] = pad
    assert shows_text(picture.astype(np.float32))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL"])
def test_every_kind_of_pixels_is_looked_at(build, run, photometric):
    grey = written().astype(np.uint8)
    if photometric in ("RGB", "YBR_FULL"):
        flat = np.full_like(grey, 128)
        grey = np.stack([grey, flat if "Y" in photometric else grey, grey // 2], axis=-1)
    assert_seen(run, build.with_pixels(build.base(), grey, photometric))


def test_text_in_one_colour_of_equal_brightness_is_seen(build, run):
    ink = (written(level=255) > 201)[..., np.newaxis]
    colours = np.where(ink, np.array([0, 102, 0]), np.array([200, 0, 0])).astype(np.uint8)
    assert_seen(run, build.with_pixels(build.base(), colours, "RGB"))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_one_frame_of_many_is_enough(build, run, syntax):
    frames = np.stack([slab().astype(np.uint8)] * 5)
    frames[3] = written().astype(np.uint8)
    dataset = build.with_pixels(build.base(), frames)
    compress(dataset, syntax, generate_instance_uid=False)
    assert_seen(run, dataset)


def test_a_header_that_says_no_does_not_help(build, run):
    dataset = build.with_pixels(build.base(), written().astype(np.uint8))
    dataset.BurnedInAnnotation = "NO"
    assert_seen(run, dataset)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_text_cannot_hide_under_bits_that_are_not_stored(build, run, syntax):
    """Noise in the bits above makes the picture itself faint; afterwards only it is left."""
    noise = np.random.default_rng(3).integers(0, 2, (320, 320)).astype(np.uint16) << 15
    dataset = build.with_pixels(build.base(), written().astype(np.uint16) | noise)
    dataset.BitsStored, dataset.HighBit = 8, 7
    if syntax is not None:
        dataset.BitsStored, dataset.HighBit = 16, 15
        compress(dataset, syntax, generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = 8, 7
    assert_seen(run, dataset)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_text_cannot_hide_beside_values_that_are_no_numbers(value):
    picture = written(at=(40, 40)).astype(np.float32)
    picture[::7, :9] = value
    assert shows_text(picture)


@pytest.mark.parametrize("side", [40, 64, 128, 320, 512])
def test_pictures_without_text_pass(side):
    picture = slab(side).astype(np.float32)
    assert not shows_text(picture)
    assert not shows_text(-picture)
    assert not shows_text(np.zeros((side, side), np.float32))


@pytest.mark.parametrize(
    ("sop_class", "keyword", "value"),
    [
        ("1.2.840.10008.5.1.4.1.1.6.1", "Modality", "US"),
        ("1.2.840.10008.5.1.4.1.1.7", "ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
        ("1.2.840.10008.5.1.4.1.1.7", "ConversionType", "SD"),
        ("1.2.840.10008.5.1.4.1.1.7", "ConversionType", "DF"),
    ],
)
def test_kinds_of_pictures_that_carry_text_must_say_that_they_do_not(
    build, run, sop_class, keyword, value
):
    dataset = build.base(sop_class, "OT")
    setattr(dataset, keyword, value)
    with pytest.raises(Refused) as caught:
        run(dataset)
    assert caught.value.reason == "burned_in_header"
    dataset.BurnedInAnnotation = "NO"
    run(dataset)


@pytest.mark.parametrize("name", ["real/GREYSCALE_IMAGE.dcm", "canary/burned_in.dcm"])
@pytest.mark.parametrize("says", ["YES", "NO"])
def test_real_burned_in_files_are_set_aside_whatever_they_say(shared_data, run, name, says):
    dataset = dcmread(shared_data / "dicom" / name)
    dataset.BurnedInAnnotation = says
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    with pytest.raises(Refused) as caught:
        run(buffer.getvalue())
    assert caught.value.reason in ("burned_in_header", "burned_in_pixels")


def test_real_clean_files_pass(shared_data, run):
    folder = shared_data / "dicom" / "real"
    for path in [folder / "ctbrain1.dcm", *sorted((folder / "hippocrop_series_1").iterdir())]:
        run(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("examples_jpeg2k.dcm", True),
        ("examples_palette.dcm", True),
        ("examples_ybr_color.dcm", True),
        ("examples_overlay.dcm", False),
        ("JPGExtended.dcm", False),
        ("J2K_pixelrep_mismatch.dcm", False),
        ("CT_small.dcm", False),
    ],
)
def test_text_of_real_machines_is_seen_and_bones_are_not_text(name, text):
    """Pictures that come with pydicom: three ultrasound machines; MR, bone scan, two of CT."""
    planes = grey_planes(dcmread(get_testdata_file(name, download=False)))
    assert any(shows_text(plane) for plane in planes) == text


def test_real_pictures_seldom_raise_a_false_alarm(shared_data):
    """Pictures that nothing was fitted or chosen on: at their own size, and enlarged.

    The thresholds were chosen for at most 0.5 % of alarms; by chance a sample may have more.
    """
    paths = real_slices.pictures(shared_data, "report")
    picked = sorted(paths, key=lambda path: hashlib.sha256(path.read_bytes()).digest())[:150]
    assert len(picked) == 150
    alarms = 0
    for path in picked:
        picture = Image.open(path)
        alarms += shows_text(np.asarray(picture, np.float32))
        alarms += shows_text(np.asarray(picture.resize((192, 192)), np.float32))
    assert alarms <= 0.02 * 2 * len(picked)


def test_text_in_thumbnails_is_seen_more_often_than_not(shared_data):
    """The weak place: real pictures of 64 pixels with one line of small letters."""
    paths = real_slices.pictures(shared_data, "report")
    picked = sorted(paths, key=lambda path: hashlib.sha256(path.read_bytes()).digest())[150:190]
    seen = 0
    for number, path in enumerate(picked):
        picture = Image.open(path).convert("L")
        text = f"{NAMES[number % len(NAMES)]} {1930 + number}"
        ImageDraw.Draw(picture).text((2, 2), text, fill=255, font=ImageFont.load_default(10))
        seen += shows_text(np.asarray(picture, np.float32))
    assert seen > len(picked) / 2


def test_the_parts_of_real_pictures_share_no_scan(tmp_path):
    """Neighbouring numbers of MedNIST are slices of one scan."""
    parts = {
        number: real_slices.part(tmp_path / "Hand" / f"{number:06}.jpeg") for number in range(5000)
    }
    blocks = [
        {parts[number] for number in range(start, start + 50)} for start in range(0, 5000, 50)
    ]
    assert all(len(block) == 1 for block in blocks)
    assert set().union(*blocks) == {"fit", "choose", "report"}
