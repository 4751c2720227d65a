"""The Merkle tree of the log: hashes, compact ranges, inclusion and consistency proofs.

RFC 6962 section 2.1 (the same tree as RFC 9162 section 2.1):

    MTH({})   = SHA-256()
    MTH({d})  = SHA-256(0x00 || d)
    MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n])), k the largest power of two < n

A *perfect* subtree (level, index) covers the leaves from index * 2^level on, 2^level of them. It
never changes once it is full, so the log stores perfect subtrees only, and every root and proof
of every size is put together from them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from wardround.privacy.errors import ProofInvalid

EMPTY_ROOT = hashlib.sha256().digest()
HASH_BYTES = 32
MAX_PROOF = 64

Node = tuple[int, int]  # (level, index) of a perfect subtree
NodeHash = Callable[[int, int], bytes]  # (level, index) -> its hash


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf's exact bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: Iterable[bytes]) -> bytes:
    """Return the root over all leaf hashes, in order."""
    tree = CompactRange()
    for value in hashes:
        tree.append(value)
    return tree.root()


@dataclass(slots=True)
class CompactRange:
    """A tree reduced to what appending needs: the perfect subtrees of its size, largest first."""

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> list[bytes]:
        """Add one leaf hash; return the hashes of the perfect subtrees that are full with it.

        Level 1 first; `completed_by` says which leaf that is for a given subtree.
        """
        full, value, index = [], leaf, self.size
        while index & 1:
            value = node_hash(self.hashes.pop(), value)
            index >>= 1
            full.append(value)
        self.hashes.append(value)
        self.size += 1
        return full

    def root(self) -> bytes:
        """Return the root of the tree."""
        if not self.hashes:
            return EMPTY_ROOT
        value = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            value = node_hash(left, value)
        return value

    def copy(self) -> "CompactRange":
        """Return an independent copy."""
        return CompactRange(self.size, list(self.hashes))


def completed_by(level: int, index: int) -> int:
    """Return the leaf with which the perfect subtree is full: its last one."""
    return ((index + 1) << level) - 1


def peaks(size: int) -> list[Node]:
    """Return the perfect subtrees of a tree of `size`, largest (leftmost) first."""
    found, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            found.append((level, start >> level))
            start += 1 << level
    return found


def root_at(size: int, node: NodeHash) -> bytes:
    """Return the root of the first `size` leaves."""
    return _hash_of(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: NodeHash) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index` in a tree of `size` (RFC 6962, 2.1.1).

    Raises ProofInvalid when the leaf is not in the tree.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"entry {index} is not in a log of {size} entries")
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_hash_of(middle, end, node))
            end = middle
        else:
            path.append(_hash_of(begin, middle, node))
            begin = middle
    return tuple(reversed(path))


def consistency_proof(old: int, new: int, node: NodeHash) -> tuple[bytes, ...]:
    """Return the proof that the tree of `old` leaves is the start of that of `new` (2.1.2).

    Empty when `old` is 0 or equals `new`. Raises ProofInvalid when `old` is larger.
    """
    if not 0 <= old <= new:
        raise ProofInvalid(f"a log of {new} entries cannot go back to {old}")
    if old in (0, new):
        return ()
    path, begin, end, whole = [], 0, new, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(_hash_of(middle, end, node))
            end = middle
        else:
            path.append(_hash_of(begin, middle, node))
            begin, whole = middle, False
    if not whole:
        path.append(_hash_of(begin, end, node))
    return tuple(reversed(path))


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf of hash `leaf` is entry `index` (RFC 9162, 2.1.3.2).

    Raises ProofInvalid when it is not, or when the proof has any other length than it must.
    """
    if not 0 <= index < size or len(proof) > MAX_PROOF or not len(leaf) == len(root) == 32:
        raise ProofInvalid(f"entry {index} cannot be in a log of {size} entries")
    node, last, value = index, size - 1, leaf
    for part in proof:
        if last == 0 or len(part) != 32:
            raise ProofInvalid(f"inclusion proof of entry {index} has the wrong length")
        if node & 1 or node == last:
            value = node_hash(part, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = node_hash(value, part)
        node, last = node >> 1, last >> 1
    if last != 0 or value != root:
        raise ProofInvalid(f"entry {index} is not in the log of {size} entries with this root")


def verify_consistency(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """Check that the tree of `old` leaves is the start of the tree of `new` (RFC 9162, 2.1.4.2).

    Raises ProofInvalid when it is not, or when the proof has any other length than it must.
    """
    if not 0 <= old <= new or len(proof) > MAX_PROOF:
        raise ProofInvalid(f"no proof leads from {old} to {new} entries")
    if old == new:
        expected = EMPTY_ROOT if new == 0 else new_root
        if proof or not old_root == expected == new_root:
            raise ProofInvalid(f"two logs of {new} entries do not agree")
        return
    if any(len(part) != 32 for part in (*proof, old_root, new_root)):
        raise ProofInvalid("a hash of the proof is not 32 bytes")
    if old == 0:
        if proof or old_root != EMPTY_ROOT:
            raise ProofInvalid("a log of no entries needs no proof and has no other root")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofInvalid("consistency proof is empty")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for part in path[1:]:
        if last == 0:
            raise ProofInvalid("consistency proof is too long")
        if node & 1 or node == last:
            first, second = node_hash(part, first), node_hash(part, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, part)
        node, last = node >> 1, last >> 1
    if last != 0 or first != old_root or second != new_root:
        raise ProofInvalid(f"the log of {new} entries does not continue the log of {old}")


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1


def _hash_of(begin: int, end: int, node: NodeHash) -> bytes:
    """The hash of the subtree over leaves begin..end, which RFC 6962's splitting has reached."""
    count = end - begin
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, begin >> level)
    middle = begin + _split(count)
    return node_hash(_hash_of(begin, middle, node), _hash_of(middle, end, node))
