"""Data sets by the names that the site gives them; ledger and log know their pseudonyms alone."""

from decimal import Decimal
from pathlib import Path

from wardround.client.errors import LedgerError
from wardround.datasets import cohort
from wardround.datasets.errors import DataError
from wardround.datasets.manifest import Manifest, load_manifest
from wardround.privacy.plan import spelled

_SHORTEST = 6


def manifests(home: Path) -> dict[str, Manifest]:
    """The manifests of the site's data sets, by name; damaged ones are left out."""
    found = {}
    for name in cohort.names(home):
        try:
            found[name] = load_manifest(home / "datasets" / name / cohort.MANIFEST)
        except DataError:
            continue
    return found


def names(home: Path) -> dict[str, str]:
    """Pseudonym -> what the site calls it; data sets with the same patients share a pseudonym."""
    found: dict[str, str] = {}
    for name, manifest in manifests(home).items():
        known = found.get(manifest.pseudonym)
        found[manifest.pseudonym] = name if known is None else f"{known}, {name}"
    return found


def pseudonym(home: Path, given: str, budgeted: frozenset[str]) -> str:
    """The pseudonym of the data set `given`: its name at the site, its pseudonym, or its start.

    `budgeted` are the data sets with a budget. Raises LedgerError where it is none of them: a
    budget that is set under a mistyped name would bound nothing.
    """
    here = manifests(home)
    if given in here:
        return here[given].pseudonym
    known = budgeted | {manifest.pseudonym for manifest in here.values()}
    if given in known:
        return given
    starting = [one for one in known if one.startswith(given)]
    if len(given) >= _SHORTEST and len(starting) == 1:
        return starting[0]
    raise LedgerError(
        f"this site has no data set {given[:40]!r}; it has: {', '.join(here) or 'none'}; "
        "see: wardround-site data list"
    )


def patients(home: Path, dataset: str) -> int:
    """How many patients the data sets of this pseudonym train on; 0 where there is none here."""
    return len(
        {
            entry.patient
            for manifest in manifests(home).values()
            if manifest.pseudonym == dataset
            for entry in manifest.entries
            if entry.split == "train"
        }
    )


def delta_note(delta: Decimal, count: int) -> str:
    """What to think of a delta where `count` patients train; empty where there is no need to.

    A mechanism that gives away all of each patient's data with probability delta keeps to (0,
    delta), so delta * count is how many it may give away.
    """
    if delta * count < Decimal("0.1"):
        return ""
    return (
        f"Delta {spelled(delta)} is not well under 1 / {count} patients: within it, "
        "all of one patient's data could be given away. "
        f"Take {_power_below(Decimal('0.1') / count)} or less."
    )


def _power_below(number: Decimal) -> str:
    return f"1e{number.adjusted()}"


def units(home: Path, dataset: str | None, unit: str) -> int:
    """How many patients or images the data set trains on; the site's only one where not named.

    Raises LedgerError where that is not one data set.
    """
    here = manifests(home)
    chosen = list(here) if dataset is None else [name for name in here if name == dataset]
    if len(chosen) != 1:
        raise LedgerError(
            "give --patients, how many there are at the smallest site, or --dataset, one of this "
            f"site's: {', '.join(here) or 'none here'}"
        )
    trained = [entry for entry in here[chosen[0]].entries if entry.split == "train"]
    return len({entry.patient for entry in trained} if unit == "patient" else trained)
