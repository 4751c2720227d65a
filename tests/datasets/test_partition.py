"""Simulated sites: every sample at one site, every patient at one site, mixes as asked for."""

from collections import Counter

import pytest

from wardround.datasets import phantom
from wardround.datasets.cohort import Sample, add
from wardround.datasets.errors import DataError
from wardround.datasets.partition import dirichlet, iid, natural


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    base = tmp_path_factory.mktemp("in")
    source = phantom.images(base / "in", seed=1, patients=120, size=16)
    cohort = add(source, base, "x", "image-classification-2d", key=bytes(32))
    return list(cohort.samples("train"))


def check(parts: list[list[Sample]], samples: list[Sample]) -> None:
    everything = [sample.content for part in parts for sample in part]
    assert sorted(everything) == sorted(sample.content for sample in samples)
    homes = [{sample.patient for sample in part} for part in parts]
    assert sum(map(len, homes)) == len(set().union(*homes))


def skew(parts: list[list[Sample]]) -> float:
    """The largest class's share, averaged over sites."""
    return sum(max(Counter(s.label for s in p).values()) / len(p) for p in parts) / len(parts)


def test_equal_parts(samples: list[Sample]) -> None:
    parts = iid(samples, 4)
    check(parts, samples)
    assert {len({sample.patient for sample in part}) for part in parts} == {24}


def test_dirichlet_skews_as_asked(samples: list[Sample]) -> None:
    even, odd = (dirichlet(samples, 4, alpha=alpha, seed=1) for alpha in (100.0, 0.2))
    check(even, samples)
    check(odd, samples)
    assert skew(even) < 0.5 < skew(odd)
    assert odd == dirichlet(samples, 4, alpha=0.2, seed=1)
    assert odd != dirichlet(samples, 4, alpha=0.2, seed=2)


def test_natural_sites(samples: list[Sample]) -> None:
    sites = ["north" if sample.patient < "8" else "south" for sample in samples]
    parts = natural(samples, sites)
    assert set(parts) == {"north", "south"}
    check(list(parts.values()), samples)
    assert all(sample.patient < "8" for sample in parts["north"])


def test_what_cannot_be_divided_is_refused(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="too few for 60 sites"):
        iid(samples, 60)
    with pytest.raises(DataError, match="too few for 0 sites"):
        iid(samples, 0)
    with pytest.raises(DataError, match="raise alpha or change the seed"):
        dirichlet(samples, 40, alpha=0.001, seed=1)
    with pytest.raises(DataError, match="above 0"):
        dirichlet(samples, 2, alpha=0, seed=1)
    with pytest.raises(DataError, match="one site for each"):
        natural(samples, ["a"])
    twice = [sample for sample in samples if sample.patient == samples[0].patient][:1] * 2
    with pytest.raises(DataError, match="at two sites"):
        natural(twice, ["a", "b"])
