"""What goes wrong in Flower 1.41's SecAgg+, run against Flower and against this protocol.

The first half of each pair shows the flaw with Flower's own primitives, so that a fixed Flower
is noticed; the second half shows that the same move gets a coordinator nowhere here.
"""

from dataclasses import replace

import numpy as np
import pytest
from secagg_federation import MODEL, build, check, ready, wire

from wardround.privacy.errors import KeysRejected, SurvivorsRejected
from wardround.privacy.secagg import Contribution, keys
from wardround.privacy.secagg.masking import Stream, apply_streams

shamir = pytest.importorskip("flwr.common.secure_aggregation.crypto.shamir")
symmetric = pytest.importorskip("flwr.common.secure_aggregation.crypto.symmetric_encryption")
asymmetric = pytest.importorskip("flwr.supercore.primitives.asymmetric")
utilities = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_utils")
flower_mod = pytest.importorskip("flwr.client.mod.secure_aggregation.secaggplus_mod")

SHAPE = [(16,)]
MOD = 1 << 32


def _flower_mask(seed: bytes) -> np.ndarray:
    return utilities.pseudo_rand_gen(seed, MOD, SHAPE)[0]


def test_flower_gives_out_both_kinds_of_share_for_a_live_site() -> None:
    """`_unmask` answers any two lists; a site in both of them loses its self and pair masks."""
    state = flower_mod.SecAggPlusState()
    state.nid, state.threshold = 1, 2
    state.rd_seed_share_dict = {1: b"b1", 2: b"b2"}
    state.sk1_share_dict = {1: b"k1", 2: b"k2"}
    answer = flower_mod._unmask(state, {"active_nids": [1, 2], "dead_nids": [2]})
    key = flower_mod.Key
    assert answer[key.NODE_ID_LIST] == [1, 2, 2]
    assert answer[key.SHARE_LIST] == [b"b1", b"b2", b"k2"]


def test_one_site_in_both_lists_cannot_be_said_here() -> None:
    """R3 and R5 carry one set. Whatever it is, a site in it gets no pair share released."""
    federation = ready(5)
    task = federation.start()
    for site in federation.names:
        federation.upload(task, site)
    federation.aggregator.survivors()
    federation.sign()
    quorum = wire(federation.aggregator.quorum())
    for site in federation.names:
        message = federation.aggregator.survivors_for(site)
        shares = federation.sites[site].release_shares(quorum)
        assert len(shares.self_shares) == 5
        assert shares.pair_shares == ()
        with pytest.raises(SurvivorsRejected):
            federation.sites[site].accept_survivors(
                replace(message, headers=message.headers[:4], boxes=())
            )


def test_flower_swapped_keys_open_the_pair_masks() -> None:
    """Peer keys come unsigned from the server: it agrees on the "pairwise" mask itself."""
    victim_private, victim_public = asymmetric.generate_key_pairs()
    server_private, server_public = asymmetric.generate_key_pairs()
    victims_view = symmetric.generate_shared_key(victim_private, server_public)
    servers_view = symmetric.generate_shared_key(server_private, victim_public)
    update = np.arange(16)
    masked = (update + _flower_mask(victims_view)) % MOD
    assert np.array_equal((masked - _flower_mask(servers_view)) % MOD, update)


def test_flower_masks_have_32_bits_of_seed_of_which_28_vary() -> None:
    """The base64 key's words are XORed into one 32-bit Mersenne Twister seed; four bits stick."""
    always, ever = MOD - 1, 0
    for _ in range(200):
        private, _ = asymmetric.generate_key_pairs()
        _, public = asymmetric.generate_key_pairs()
        seed, word = symmetric.generate_shared_key(private, public), 0
        for at in range(0, len(seed), 4):
            word ^= int.from_bytes(seed[at : at + 4], "little")
        always, ever = always & word, ever | word
        expected = np.random.RandomState(word).randint(0, MOD - 1, SHAPE[0], dtype=np.int64)
        assert np.array_equal(_flower_mask(seed), expected)
    assert (ever & ~always).bit_count() <= 28


def test_swapped_keys_are_refused_here() -> None:
    federation = build(5)
    for site in federation.names:
        federation.aggregator.add_advert(federation.sites[site].advertise())
    book = federation.aggregator.key_book()
    _, mine = keys.fresh_key_pair()
    swapped = replace(
        book,
        adverts=tuple(
            advert if advert.site == "site-00" else replace(advert, public_key=mine)
            for advert in book.adverts
        ),
    )
    with pytest.raises(KeysRejected, match="not signed"):
        federation.sites["site-00"].accept_book(swapped)


def test_masks_here_depend_on_every_bit_of_a_256_bit_secret() -> None:
    secret = keys.fresh_secret()
    seen = set()
    for bit in range(256):
        flipped = (int.from_bytes(secret, "big") ^ (1 << bit)).to_bytes(32, "big")
        stream = np.zeros(4, dtype="<u4")
        apply_streams(stream, [Stream(keys.stream_key(flipped))])
        seen.add(stream.tobytes())
    assert len(seen) == 256


def test_flower_halts_when_a_node_is_missing_at_set_up() -> None:
    """`check_configs` and `_share_keys` want every sampled neighbour; the workflow gives up."""
    state = flower_mod.SecAggPlusState()
    state.nid, state.threshold, state.public_keys_dict = 1, 3, {}
    with pytest.raises(ValueError, match="smaller than threshold"):
        flower_mod._share_keys(state, {"1": (b"", b""), "2": (b"", b"")})


def test_a_drop_out_at_set_up_does_not_halt_the_run_here() -> None:
    federation = build(4)
    federation.agree(federation.names[1:])
    given = federation.run(federation.start(participants=federation.names[1:]))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_a_drop_out_while_shares_are_dealt_does_not_halt_the_round_here() -> None:
    """Shares ride with the upload: who vanishes there is simply not among the survivors."""
    federation = ready(4)
    task = federation.start()
    lost = federation.names[3]
    federation.sites[lost].begin_round(task, MODEL, federation.contribution(3))  # never arrives
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names[:3])}
    for site in given:
        federation.upload(task, site, given[site])
    federation.aggregator.survivors()
    federation.sign()
    federation.release()
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_sample_counts_do_not_travel_in_the_clear() -> None:
    """Two sites with very different counts send headers and boxes of the very same size."""
    sizes = set()
    for weight in (1, 100):
        federation = ready(3)
        task = federation.start()
        contribution = Contribution(np.zeros(40, np.float32), weight, (0, 0))
        upload, vector = federation.sites["site-00"].begin_round(task, MODEL, contribution)
        sizes.add((len(vector), tuple(map(len, upload.boxes))))
        assert weight not in vector[:40]
    assert len(sizes) == 1
