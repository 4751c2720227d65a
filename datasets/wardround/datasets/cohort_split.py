"""Which patients train and which are held out: decided per patient, by the site's key.

A patient's place comes from a keyed hash of the pseudonym, so it does not depend on the order of
files, stays the same when patients are added to other classes, and cannot be steered by naming.
"""

import hmac
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction

from wardround.datasets.manifest import Part

_LABEL = b"wardround/v1/split\0"


def split(patients: Mapping[str, str], share: Fraction, key: bytes) -> dict[str, Part]:
    """Return "train" or "held_out" for every patient.

    `patients` maps pseudonym to class ("" where there are no classes); `share`, 0 up to 1, is the
    part to hold out of each class, rounded. Classes of three patients or more give at least one
    when `share` is above 0; when no class is that large, the largest gives one if it has two.
    """
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, label in patients.items():
        strata[label].append(patient)
    for members in strata.values():
        members.sort(key=lambda patient: hmac.digest(key, _LABEL + patient.encode(), "sha256"))
    held: set[str] = set()
    for members in strata.values():
        count = round(share * len(members))
        if share > 0 and len(members) >= 3:
            count = max(1, count)
        held.update(members[: min(count, len(members) - 1)])
    if not held and share > 0 and strata:
        _, largest = max(strata.items(), key=lambda stratum: (len(stratum[1]), stratum[0]))
        if len(patients) > 1:
            held.add(largest[0])
    return {patient: "held_out" if patient in held else "train" for patient in patients}
