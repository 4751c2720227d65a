"""On which privacy budget a data set counts: the one on which its patients have ever counted.

A spend is of patients, whatever their data set is called and whatever takes its place. So the
pseudonym under which the ledger knows a data set follows its patients: also those that were in a
data set before it was replaced, which `FORMER` beside its manifest remembers.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from wardround.datasets.errors import CohortInvalid, DataError
from wardround.datasets.manifest import Entry, load_manifest, pseudonym
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData

FORMER = "former.json"


def budget_name(
    name: str, entries: Iterable[Entry], manifests: Iterable[Path], *, key: bytes
) -> str:
    """Return the pseudonym of the data set `name`: of any other with a patient or picture of it.

    `manifests` are those of all data sets of the site, that which `name` had before among them;
    `key` (32 bytes) makes the pseudonym of a new one. Raises DataError when its patients are
    counted under two budgets.
    """
    here = _identities(entries)
    shared: dict[str, str] = {}
    for path in manifests:
        other = path.parent.name
        for identity, budget in _counted(path, repaired=other == name).items():
            if identity in here:
                shared.setdefault(budget, other)
    if len(shared) > 1:
        raise DataError(
            f"patients of this data set are in {' and '.join(sorted(shared.values()))}, whose "
            "privacy budgets are counted apart; leave the patients of one of them out"
        )
    return next(iter(shared), pseudonym(key, "data set", name))


def former(manifest: Path) -> bytes:
    """Return what `FORMER` has to hold once the data set of `manifest` is replaced."""
    return canonical.dumps(dict(_counted(manifest, repaired=True)))


def _identities(entries: Iterable[Entry]) -> set[str]:
    return {identity for entry in entries for identity in (entry.patient, entry.pixels)}


def _counted(path: Path, *, repaired: bool) -> dict[str, str]:
    """Patient or picture, now or formerly in the data set, and the pseudonym of its budget.

    A damaged manifest is passed over where it is about to be `repaired` by adding it again.
    """
    found: dict[str, str] = {}
    remembered = path.with_name(FORMER)
    if remembered.exists():
        try:
            found = {k: str(v) for k, v in canonical.loads_object(remembered.read_bytes()).items()}
        except MalformedData:
            raise CohortInvalid(
                f"{FORMER} of the data set {path.parent.name}, which says how its former "
                "patients are counted, is damaged; bring back a copy"
            ) from None
    with suppress(*((DataError,) if repaired else ())):
        manifest = load_manifest(path)
        found |= dict.fromkeys(_identities(manifest.entries), manifest.pseudonym)
    return found
