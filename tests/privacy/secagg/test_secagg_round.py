"""Whole rounds of honest sites: the sum is the plaintext sum."""

import pytest
from secagg_federation import check, ready

from wardround.privacy.errors import CoordinatorBlind


@pytest.mark.parametrize("bits", [32, 16])
def test_three_sites_sum_in_plain_mode(bits: int) -> None:
    federation = ready(3, ring_bits=bits)
    given = federation.run(federation.start())
    check(federation.aggregator.result(), given, federation.spec.spec)
    opening, vector = federation.opened()
    for site in federation.names:
        check(federation.sites[site].accept_aggregate(opening, vector), given, federation.spec.spec)


@pytest.mark.parametrize("bits", [32, 16])
def test_group_mode_opens_at_the_sites_only(bits: int) -> None:
    federation = ready(3, ring_bits=bits, group_mode=True)
    given = federation.run(federation.start())
    with pytest.raises(CoordinatorBlind):
        federation.aggregator.result()
    opening, vector = federation.opened()
    for site in federation.names:
        check(federation.sites[site].accept_aggregate(opening, vector), given, federation.spec.spec)
