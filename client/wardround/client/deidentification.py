"""What a site states about the de-identification of a data set: counts and digests, no names."""

from pathlib import Path

from wardround.datasets.cohort import Cohort
from wardround.datasets.deidentified import kept_summary
from wardround.privacy.events import Counter, Deidentification

PROFILE = "DICOM PS3.15 Basic Profile"


def deidentification(home: Path, cohort: Cohort) -> Deidentification | None:
    """Return the statement on `cohort` of the site at `home`, None when no run made its images.

    Raises CohortInvalid when the report that the manifest names is lost or changed.
    """
    digest = cohort.manifest.deidentification
    if not digest:
        return None
    summary = kept_summary(home / "datasets" / cohort.name, digest)
    return Deidentification(
        dataset=cohort.pseudonym,
        profile=PROFILE,
        profile_version=summary.edition,
        options=summary.options,
        manifest_digest=cohort.digest(),
        report_digest=digest,
        counts=tuple(Counter(name, count) for name, count in summary.counts),
        notes="",
    )
