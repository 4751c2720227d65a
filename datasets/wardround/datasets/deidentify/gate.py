"""The gate for burned-in text: what header or pixels make suspicious is never passed."""

from pydicom.dataset import Dataset

from wardround.datasets.deidentify.frames import grey_planes, has_pixels
from wardround.datasets.errors import Refused

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Ultrasound and endoscopy machines write the patient's name into the picture unless told not to.
_WRITES_INTO_PIXELS = frozenset(
    _STORAGE + suffix for suffix in ("3", "3.1", "6", "6.1", "6.2", "77.1.1", "77.1.1.1")
)
# Conversion Type of a digitised video, film, paper or picture: labels were copied with it.
_COPIED = frozenset({"DV", "DF", "SD", "SI"})


def check_header(dataset: Dataset, sop_class: str) -> None:
    """Raise Refused when the header says or suggests that the pixels show who the patient is.

    An ultrasound or endoscopy object, a saved screen and a copy of film, paper or video pass only
    with Burned In Annotation NO.
    """
    if not has_pixels(dataset):
        return
    burned = str(dataset.get("BurnedInAnnotation", "")).strip().upper()
    if burned == "YES":
        raise Refused("burned_in_header", "Burned In Annotation is YES")
    if str(dataset.get("RecognizableVisualFeatures", "")).strip().upper() == "YES":
        raise Refused("recognisable", "Recognizable Visual Features is YES")
    if burned == "NO":
        return
    kind = " ".join(map(str, dataset.get("ImageType", None) or ())).upper()
    copied = str(dataset.get("ConversionType", "")).strip().upper() in _COPIED
    if sop_class in _WRITES_INTO_PIXELS or "SCREEN" in kind or copied:
        raise Refused("burned_in_header", "a kind of image that carries text unless it says NO")


def check_pixels(dataset: Dataset) -> None:
    """Raise Refused when a frame looks as if it held text, or cannot be decoded to look."""
    # Imported here: SciPy takes longer to load than a folder of small files to read.
    from wardround.datasets.deidentify.burned import shows_text

    if has_pixels(dataset) and any(shows_text(plane) for plane in grey_planes(dataset)):
        raise Refused("burned_in_pixels", "lines of letter-like shapes")
