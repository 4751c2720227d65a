"""ICC profiles: the numbers of the colour transform stay, every text goes, no offset moves.

Source: ICC.1:2022 section 7 (header, tag table) and section 10 (types).
"""

_HEADER, _ENTRY = 128, 12
# Version, class, colour spaces, "acsp", platform, flags, attributes, intent, illuminant. Left out:
# CMM, date, manufacturer, model, creator, profile ID and the reserved bytes.
_KEPT_FIELDS = ((0, 4), (8, 24), (36, 48), (56, 80))
_NUMBERS = frozenset(
    b"XYZ |curv|para|mft1|mft2|mAB |mBA |sf32|uf32|chrm|meas|view|sig ".split(b"|")
)


def blank_texts(profile: bytes) -> bytes | None:
    """Return `profile` with zeros for all that is no number, None when it is no ICC profile."""
    length = int.from_bytes(profile[:4])
    if profile[36:40] != b"acsp" or not _HEADER + 4 <= length <= len(profile):
        return None
    table = _HEADER + 4 + _ENTRY * int.from_bytes(profile[_HEADER : _HEADER + 4])
    if table > length:
        return None
    clean = bytearray(len(profile))
    for start, stop in (*_KEPT_FIELDS, (_HEADER, table)):
        clean[start:stop] = profile[start:stop]
    for at in range(_HEADER + 4, table, _ENTRY):
        start = int.from_bytes(profile[at + 4 : at + 8])
        stop = start + int.from_bytes(profile[at + 8 : at + 12])
        if not table <= start <= stop <= length:
            return None
        if profile[start : start + 4] not in _NUMBERS:
            stop = min(stop, start + 4)  # the type stays, so that readers find an empty text
        clean[start:stop] = profile[start:stop]
    return bytes(clean)
