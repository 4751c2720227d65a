"""The Clean Pixel Data option: known places of text are painted over in every frame."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.utils import decompress, set_pixel_data

from wardround.datasets.deidentify.frames import frame_count
from wardround.datasets.deidentify.profile import Box
from wardround.datasets.deidentify.reading import BROKEN, quiet
from wardround.datasets.errors import Refused


def blank(dataset: Dataset, boxes: tuple[Box, ...]) -> bool:
    """Blank `boxes`, and all outside the ultrasound regions where the header lists them.

    Returns whether anything was painted. The pixels are decompressed for it, since painting a
    lossy picture and compressing it again would change the rest. Raises Refused
    ("pixels_unreadable") when they cannot be decoded.
    """
    regions = _regions(dataset)
    if not boxes and not regions:
        return False
    try:
        with quiet():
            if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
                decompress(dataset, generate_instance_uid=False)
            pixels = np.array(dataset.pixel_array)
            stack = pixels if frame_count(dataset) > 1 else pixels[np.newaxis]
            keep = np.full(stack.shape[1:3], not regions)
            for region in regions:
                keep[region.top : region.bottom, region.left : region.right] = True
            for box in boxes:
                keep[box.top : box.bottom, box.left : box.right] = False
            white = dataset.PhotometricInterpretation == "MONOCHROME1"
            stack[:, ~keep] = (1 << dataset.BitsStored) - 1 if white else 0
            photometric = str(dataset.PhotometricInterpretation)
            set_pixel_data(
                dataset,
                pixels,
                "RGB" if photometric == "PALETTE COLOR" else photometric,
                dataset.BitsStored,
                generate_instance_uid=False,
            )
    except (*BROKEN, RuntimeError, MemoryError) as error:
        raise Refused("pixels_unreadable", f"not decodable: {type(error).__name__}") from None
    dataset.BurnedInAnnotation = "NO"
    return True


def _regions(dataset: Dataset) -> list[Box]:
    """Read Sequence of Ultrasound Regions (0018,6011): the places where the machine draws."""
    found = []
    for item in dataset.get("SequenceOfUltrasoundRegions", None) or ():
        try:
            found.append(
                Box(
                    int(item.RegionLocationMinX0),
                    int(item.RegionLocationMinY0),
                    int(item.RegionLocationMaxX1) + 1,
                    int(item.RegionLocationMaxY1) + 1,
                )
            )
        except (*BROKEN, ArithmeticError):
            raise Refused("malformed", "an ultrasound region is no rectangle") from None
    return found
