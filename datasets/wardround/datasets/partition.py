"""Simulated sites: one data set divided as hospitals would hold it, for notebooks and benchmarks.

The dividing is flwr-datasets' (Li et al., arXiv 2102.02079, for label skew); what is added is that
patients are divided, never their pictures, so no patient is at two sites. Not for production:
a real site's data is its own.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from wardround.datasets.cohort import Sample
from wardround.datasets.errors import DataError

MIN_PATIENTS = 2  # of a site; Dirichlet draws are repeated until every site has as many


def iid(samples: Sequence[Sample], sites: int) -> list[list[Sample]]:
    """Divide into `sites` equal parts: patients in the order of their keyed pseudonyms."""
    from flwr_datasets.partitioner import IidPartitioner

    return _divide(samples, sites, lambda: IidPartitioner(num_partitions=sites))


def dirichlet(
    samples: Sequence[Sample], sites: int, *, alpha: float, seed: int
) -> list[list[Sample]]:
    """Divide so that each site has its own mix of classes, drawn from Dirichlet(`alpha`).

    `alpha` above 0: 0.1 gives sites of nearly one class, 100 nearly equal ones. `seed` decides.
    """
    from flwr_datasets.partitioner import DirichletPartitioner

    if not alpha > 0:
        raise DataError("the Dirichlet parameter is above 0")
    return _divide(
        samples,
        sites,
        lambda: DirichletPartitioner(
            num_partitions=sites,
            partition_by="label",
            alpha=alpha,
            min_partition_size=MIN_PATIENTS,
            self_balancing=False,
            seed=seed,
        ),
    )


def natural(samples: Sequence[Sample], site_of: Sequence[str]) -> dict[str, list[Sample]]:
    """Divide by what the data says: `site_of` names each sample's site (scanner, hospital, ward).

    Raises DataError when a patient is at two sites.
    """
    from flwr_datasets.partitioner import NaturalIdPartitioner

    if len(site_of) != len(samples):
        raise DataError("name one site for each sample")
    homes: dict[str, set[str]] = defaultdict(set)
    for sample, site in zip(samples, site_of, strict=True):
        homes[sample.patient].add(site)
    if any(len(sites) > 1 for sites in homes.values()):
        raise DataError("a patient is at two sites; divide patients, not pictures")
    patients = sorted(homes)
    partitioner = NaturalIdPartitioner(partition_by="site")
    partitioner.dataset = _dataset(
        {"patient": patients, "site": [min(homes[patient]) for patient in patients]}
    )
    parts = _load(partitioner, len(set(site_of)), samples)
    names = partitioner.partition_id_to_natural_id
    return {str(names[number]): part for number, part in enumerate(parts)}


def _divide(samples: Sequence[Sample], sites: int, make: Callable[[], Any]) -> list[list[Sample]]:
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        labels[sample.patient][sample.label] += 1
    if sites < 1 or len(labels) < sites * MIN_PATIENTS:
        raise DataError(f"{len(labels)} patients are too few for {sites} sites")
    patients = sorted(labels)
    usual = [max(sorted(labels[p]), key=labels[p].__getitem__) for p in patients]
    partitioner = make()
    partitioner.dataset = _dataset({"patient": patients, "label": usual})
    try:
        with warnings.catch_warnings():
            # It tells of every draw that left a site too small; only the last one matters.
            warnings.simplefilter("ignore", UserWarning)
            return _load(partitioner, sites, samples)
    except ValueError:
        raise DataError(
            f"no division left every site {MIN_PATIENTS} patients; raise alpha or change the seed"
        ) from None


def _load(partitioner: Any, sites: int, samples: Sequence[Sample]) -> list[list[Sample]]:
    parts: list[list[Sample]] = []
    for number in range(sites):
        here = set(partitioner.load_partition(number)["patient"])
        parts.append([sample for sample in samples if sample.patient in here])
    return parts


def _dataset(columns: dict[str, list[str]]) -> Any:
    # By name: type checkers take the repository's folder `datasets` for Hugging Face's package.
    return import_module("datasets").Dataset.from_dict(columns)
