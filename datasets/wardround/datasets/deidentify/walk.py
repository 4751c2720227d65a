"""What the walk through one file's data set needs, and what it gathers on its way."""

from collections import Counter
from dataclasses import dataclass, field

from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.table import Option, every_rule
from wardround.datasets.deidentify.text import Identity

PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
PATIENT_NAME, PATIENT_ID = 0x00100010, 0x00100020


@dataclass(slots=True)
class Walk:
    """One file's walk. `patient` is never shown. `kept` holds texts an option retains."""

    profile: Profile
    pseudonyms: Pseudonyms = field(repr=False)
    patient: str = field(repr=False)
    sop_class: str
    identity: Identity = field(default_factory=Identity, repr=False)
    counts: Counter[str] = field(default_factory=Counter)
    kept: list[str] = field(default_factory=list, repr=False)

    def letters(self, tag: int) -> dict[Option, str]:
        """Return what the options that are on say about `tag`: "K" (keep) or "C" (clean)."""
        rule = every_rule().get(tag)
        if rule is None:
            return {}
        return {option: how for option, how in rule.options if option in self.profile.options}

    def keeps(self, tag: int) -> bool:
        """Tell whether `tag` stays as it is. Cleaning wins over keeping: a date of calibration,
        kept while all others move, would tell by how much they moved.
        """
        return set(self.letters(tag).values()) == {"K"}
