"""Every compression of DICOM that pip can decode: read alike, and kept by de-identification.

The files come with pydicom: the same pictures written by several makers' encoders.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from wardround.datasets.deidentify.instance import Deidentified, deidentify
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.reading import Content, quiet
from wardround.datasets.dicom import read_picture
from wardround.datasets.errors import Refused

FILES = {
    "MR_small_RLE.dcm": RLELossless,
    "SC_rgb_rle_16bit.dcm": RLELossless,
    "MR_small_jp2klossless.dcm": JPEG2000Lossless,
    "JPEG2000.dcm": JPEG2000,
    "693_J2KI.dcm": JPEG2000,
    "MR_small_jpeg_ls_lossless.dcm": JPEGLSLossless,
    "JPEGLSNearLossless_16.dcm": JPEGLSNearLossless,
    "SC_rgb_jls_lossy_sample.dcm": JPEGLSNearLossless,
    "SC_rgb_jpeg_gdcm.dcm": JPEGLosslessSV1,
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": JPEGBaseline8Bit,
    "SC_rgb_small_odd_jpeg.dcm": JPEGBaseline8Bit,
    "JPGExtended.dcm": JPEGExtended12Bit,
    "image_dfl.dcm": DeflatedExplicitVRLittleEndian,
}


def path_of(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert found is not None, f"pydicom no longer brings {name}"
    return Path(str(found))


def cleaned(data: bytes) -> Deidentified:
    return deidentify(Content(data, "0" * 64), Profile(), Pseudonyms(bytes(32)))


def stored(data: bytes) -> NDArray[Any]:
    with quiet():
        return np.asarray(dcmread(io.BytesIO(data)).pixel_array)


@pytest.mark.parametrize("name", FILES)
def test_a_compressed_picture_is_read(name: str) -> None:
    with quiet():
        dataset = dcmread(path_of(name))
        assert dataset.file_meta.TransferSyntaxUID == FILES[name]
    pixels = read_picture(path_of(name)).pixels
    assert pixels.shape[:2] == (dataset.Rows, dataset.Columns)
    assert pixels.shape[2:] == ((3,) if dataset.SamplesPerPixel == 3 else ())
    assert np.ptp(pixels) > 0


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_what_loses_nothing_gives_the_uncompressed_numbers(name: str) -> None:
    expected = read_picture(path_of("MR_small.dcm")).pixels
    np.testing.assert_array_equal(read_picture(path_of(name)).pixels, expected)


def test_baseline_jpeg_is_what_another_decoder_makes_of_it() -> None:
    path = path_of("SC_rgb_small_odd_jpeg.dcm")
    with quiet():
        frame = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
    expected = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"), np.float32) / 255
    np.testing.assert_allclose(read_picture(path).pixels, expected, atol=3 / 255)


def test_lossless_jpeg_of_the_general_process_is_read(tmp_path: Path) -> None:
    """What says process 14 may use any predictor; the first is one of them."""
    with quiet():
        dataset = dcmread(path_of("SC_rgb_jpeg_gdcm.dcm"))
        dataset.file_meta.TransferSyntaxUID = JPEGLossless
        dataset.save_as(tmp_path / "general.dcm")
    expected = read_picture(path_of("SC_rgb_jpeg_gdcm.dcm")).pixels
    np.testing.assert_array_equal(read_picture(tmp_path / "general.dcm").pixels, expected)
    result = dcmread(io.BytesIO(cleaned((tmp_path / "general.dcm").read_bytes()).data))
    assert result.file_meta.TransferSyntaxUID == JPEGLossless


@pytest.mark.parametrize("name", FILES)
def test_deidentification_keeps_pixels_form_and_what_was_lost(name: str) -> None:
    data = path_of(name).read_bytes()
    result = cleaned(data).data
    before, after = dcmread(io.BytesIO(data)), dcmread(io.BytesIO(result))
    np.testing.assert_array_equal(stored(result), stored(data))
    kept = FILES[name]
    if kept == DeflatedExplicitVRLittleEndian:
        kept = ExplicitVRLittleEndian
    assert after.file_meta.TransferSyntaxUID == kept
    for keyword in (
        "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
        "PhotometricInterpretation", "BitsStored",
    ):  # fmt: skip
        assert after.get(keyword) == before.get(keyword)


def test_a_missing_decoder_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = path_of("MR_small_jpeg_ls_lossless.dcm")
    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    for call in (lambda: read_picture(path), lambda: cleaned(path.read_bytes())):
        with pytest.raises(Refused, match=r"JPEG-LS.*: pip install pylibjpeg-libjpeg") as caught:
            call()
        assert caught.value.reason == "no_decoder"
        assert "\n" not in str(caught.value)


def test_video_is_refused_as_what_nothing_here_decodes() -> None:
    with quiet():
        dataset = dcmread(path_of("SC_rgb_jpeg_gdcm.dcm"))
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")  # MPEG-4
        dataset.PixelData = encapsulate([bytes(100)])
        buffer = io.BytesIO()
        dataset.save_as(buffer)
    with pytest.raises(Refused, match="video") as caught:
        cleaned(buffer.getvalue())
    assert caught.value.reason == "pixels_unreadable"
