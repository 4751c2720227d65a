"""The tree against transparency-dev's vectors, and against the definition for every small tree."""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy.errors import ProofInvalid
from wardround.privacy.transparency import (
    EMPTY_ROOT,
    CompactRange,
    completed_by,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    peaks,
    root_at,
    root_of,
    verify_consistency,
    verify_inclusion,
)

VECTORS: dict[str, Any] = json.loads(
    Path(__file__).with_name("rfc6962.json").read_text(encoding="ascii")
)
SMALL = 33


def unhex(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def mth(leaves: tuple[bytes, ...]) -> bytes:
    """MTH of RFC 6962, section 2.1, letter by letter: the slow reference."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: tuple[bytes, ...]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: tuple[bytes, ...], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


LEAVES = tuple(b"%d" % number for number in range(SMALL))


@cache
def node(level: int, index: int) -> bytes:
    """A perfect subtree of the small tree, as a database would have stored it."""
    if level == 0:
        return leaf_hash(LEAVES[index])
    return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))


def test_roots_of_the_reference_tree() -> None:
    leaves = unhex(VECTORS["leaves"])
    tree = CompactRange()
    roots = [tree.root()]
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
        roots.append(tree.root())
    assert roots[0] == EMPTY_ROOT
    assert roots[1:] == unhex(VECTORS["roots"])


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: case["name"])
def test_inclusion_vector(case: dict[str, Any]) -> None:
    given = (
        case["index"],
        case["size"],
        bytes.fromhex(case["leaf"]),
        unhex(case["proof"]),
        bytes.fromhex(case["root"]),
    )
    if case["refuse"]:
        with pytest.raises(ProofInvalid):
            verify_inclusion(*given)
    else:
        verify_inclusion(*given)


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: case["name"])
def test_consistency_vector(case: dict[str, Any]) -> None:
    given = (
        case["old"],
        case["new"],
        unhex(case["proof"]),
        bytes.fromhex(case["old_root"]),
        bytes.fromhex(case["new_root"]),
    )
    if case["refuse"]:
        with pytest.raises(ProofInvalid):
            verify_consistency(*given)
    else:
        verify_consistency(*given)


@pytest.mark.parametrize("size", range(SMALL + 1))
def test_every_root_and_proof_of_every_small_tree_is_that_of_the_definition(size: int) -> None:
    leaves = LEAVES[:size]
    root = mth(leaves)
    assert root_at(size, node) == root == root_of(map(leaf_hash, leaves))
    for index in range(size):
        proof = inclusion_proof(index, size, node)
        assert list(proof) == path(index, leaves)
        verify_inclusion(index, size, leaf_hash(leaves[index]), proof, root)
    for old in range(1, size + 1):
        consistency = consistency_proof(old, size, node)
        assert list(consistency) == subproof(old, leaves, True)
        verify_consistency(old, size, consistency, mth(leaves[:old]), root)


@pytest.mark.parametrize("size", range(1, 18))
def test_every_proof_of_a_small_tree_holds_for_one_thing_only(size: int) -> None:
    roots = [mth(LEAVES[:n]) for n in range(19)]
    for index in range(size):
        proof = inclusion_proof(index, size, node)
        for other in range(-1, size + 2):
            if other != index:
                with pytest.raises(ProofInvalid):
                    verify_inclusion(other, size, leaf_hash(LEAVES[index]), proof, roots[size])
        for wrong in ([*proof, b"\0" * 32], proof[1:], proof[:-1], proof[::-1]):
            if tuple(wrong) != proof:
                with pytest.raises(ProofInvalid):
                    verify_inclusion(index, size, leaf_hash(LEAVES[index]), wrong, roots[size])
    for old in range(1, size):
        proof = consistency_proof(old, size, node)
        for claimed in range(19):
            if claimed != old:
                with pytest.raises(ProofInvalid):
                    verify_consistency(claimed, size, proof, roots[old], roots[size])
                with pytest.raises(ProofInvalid):
                    verify_consistency(old, size, proof, roots[claimed], roots[size])


def test_a_leaf_is_never_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


@given(st.integers(0, 2**62))
def test_peaks_cover_any_size_without_gap(size: int) -> None:
    covered = 0
    for level, index in peaks(size):
        assert index << level == covered
        covered += 1 << level
    assert covered == size


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_full_subtrees_are_reported_once_each(leaves: list[bytes]) -> None:
    tree = CompactRange()
    full: dict[tuple[int, int], bytes] = {}
    for place, leaf in enumerate(leaves):
        for level, value in enumerate(tree.append(leaf_hash(leaf)), 1):
            index = place >> level
            assert completed_by(level, index) == place
            assert (level, index) not in full
            full[level, index] = value
    assert all(
        value == mth(tuple(leaves[index << level : (index + 1) << level]))
        for (level, index), value in full.items()
    )
    assert len(full) == sum(len(leaves) >> level for level in range(1, 8))
    assert tree.root() == mth(tuple(leaves))


@given(st.integers(-5, 40), st.integers(-5, 40), st.lists(st.binary(max_size=40), max_size=8))
def test_arbitrary_proofs_raise_the_right_error_only(a: int, b: int, proof: list[bytes]) -> None:
    with pytest.raises(ProofInvalid):
        verify_inclusion(a, b, b"\0" * 32, proof, b"\1" * 32)
    with pytest.raises(ProofInvalid):
        verify_consistency(a, b, proof, b"\0" * 32, b"\1" * 32)
