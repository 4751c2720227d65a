"""Lookup tables and curves end where the header beside them says; what stands behind goes.

Sources: PS3.3 section C.11.1.1.1 (LUT Descriptor), C.7.6.3.1.5 (palettes), C.10.9 (waveforms).
"""

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from wardround.datasets.deidentify.values import UNDECODABLE

# A table's descriptor, and its data.
_TABLES = {
    0x00283002: 0x00283006,
    0x00281101: 0x00281201,
    0x00281102: 0x00281202,
    0x00281103: 0x00281203,
    0x00281104: 0x00281204,
}
_CHANNELS, _SAMPLES, _BITS, _WAVEFORM = 0x003A0005, 0x003A0010, 0x54001004, 0x54001010
_MOST_ENTRIES = 65536  # written as 0


def cut_surplus(dataset: Dataset) -> int:
    """Shorten tables and curves of `dataset`, not of its items; return how many were too long."""
    cut = 0
    for described, tag in (*_TABLES.items(), (_BITS, _WAVEFORM)):
        try:
            if tag in dataset and described in dataset:
                cut += _cut(dataset, tag, described)
        except UNDECODABLE:
            continue  # not a number: what it is, is judged when its turn comes
    return cut


def _cut(dataset: Dataset, tag: int, described: int) -> bool:
    content = dataset[tag].value
    if tag == _WAVEFORM:
        count = int(dataset[_CHANNELS].value) * int(dataset[_SAMPLES].value)
        width = int(dataset[described].value) // 8
    else:
        entries, _, bits = dataset[described].value
        count, width = int(entries) or _MOST_ENTRIES, 2
        if isinstance(content, bytes) and int(bits) <= 8 and len(content) < 2 * count:
            width = 1
    if isinstance(content, list | MultiValue):
        length = count
    elif isinstance(content, bytes):
        length = count * width
    else:
        return False
    if not any(content[length:]):
        return False
    kept = content[:length]
    dataset[tag].value = kept + b"\0" * (length % 2) if isinstance(kept, bytes) else list(kept)
    return True
