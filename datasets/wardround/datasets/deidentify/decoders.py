"""Whether compressed pixels can be decoded here, asked before a library fails in its own words.

JPEG and JPEG-LS need `pylibjpeg-libjpeg`, JPEG 2000 `pylibjpeg-openjpeg`; run length comes with
pydicom. Video is not decoded by anything that pip can install.
"""

from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from wardround.datasets.errors import Refused


def check_decoder(dataset: Dataset) -> None:
    """Raise Refused when the pixels' transfer syntax, as file meta names it, cannot be decoded.

    "no_decoder" when installing a package would help, "pixels_unreadable" when nothing would.
    """
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    if not syntax.is_transfer_syntax or not syntax.is_encapsulated:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refused("pixels_unreadable", "video or another compression not decoded") from None
    if not decoder.is_available:
        raise Refused(
            "no_decoder",
            f"no decoder for {syntax.name}: pip install pylibjpeg-libjpeg pylibjpeg-openjpeg",
        )
