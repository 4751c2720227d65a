"""The coordinator's memory is that of one vector, however many sites there are."""

import tracemalloc

import numpy as np
from secagg_federation import MODEL, SIGNERS, ready

from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import Contribution, encode

DIMENSION = 400_000
VECTOR = 4 * DIMENSION


def test_fifty_sites_cost_one_vector_and_control_messages_stay_small() -> None:
    federation = ready(50, colluders=9, layout=(TensorLayout("w", (DIMENSION,)),), counters=())
    assert len(SIGNERS) == 50
    task = federation.start()
    values = np.full(DIMENSION, 0.25, np.float32)
    held = 0
    for index, site in enumerate(federation.names):
        upload, vector = federation.sites[site].begin_round(
            task, MODEL, Contribution(values, 1, ())
        )
        assert len(encode(upload)) < 40_000
        assert vector.nbytes < 1.01 * values.nbytes
        if index > 0:  # the first upload makes the sum; the others must not add a vector each
            tracemalloc.start()
        federation.aggregator.add(upload, vector)
        if index > 0:
            held += tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
    assert held < 49 * 40_000 < 2 * VECTOR  # sealed boxes and headers, no vectors
    federation.aggregator.survivors()
    federation.sign(federation.names[:30])
    federation.release(federation.names[:30])
    tracemalloc.start()
    try:
        aggregate = federation.aggregator.result()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * VECTOR + 2_000_000  # the mean, and buffers of a chunk
    np.testing.assert_allclose(aggregate.mean, 0.25, atol=1e-6)
    assert aggregate.weight == 50


def test_control_messages_of_fifty_sites_of_which_eighteen_drop_out() -> None:
    federation = ready(50, colluders=9, counters=())
    task = federation.start()
    sent = {}
    for site in federation.names[:32]:
        federation.upload(task, site)
        sent[site] = len(encode(federation.uploads[site][0]))
    federation.aggregator.survivors()
    for site in federation.names[:32]:
        signature = federation.sites[site].accept_survivors(
            federation.aggregator.survivors_for(site)
        )
        federation.aggregator.add_signature(signature)
        sent[site] += len(encode(signature))
    quorum = federation.aggregator.quorum()
    for site in federation.names[:32]:
        shares = federation.sites[site].release_shares(quorum)
        federation.aggregator.add_shares(shares)
        sent[site] += len(encode(shares))
    assert federation.aggregator.result().weight == 320
    assert max(sent.values()) < 65_000
