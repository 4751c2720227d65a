"""How a site deals the shares of its round's secrets: most peers can compute theirs.

A polynomial of degree t - 1 through the secret has t - 1 values to choose freely. Shamir chooses
them at random; here they are the shares of t - 1 *derived* holders, each a key stream under the
pair root of dealer and holder, so those peers need no message. The others' shares follow, and go
to them in sealed boxes. (README, "Most shares are not sent".)
"""

from collections.abc import Mapping, Sequence

import numpy as np

from wardround.privacy.secagg import keys, shamir
from wardround.privacy.secagg.checks import derived_holders, sealed_holders
from wardround.privacy.secagg.masking import expand
from wardround.privacy.secagg.parameters import SECRET


def derived_share(
    root: bytes, context: bytes, dealer: str, holder: str, salt: bytes, secrets: int
) -> bytes:
    """Return the share, 32 bytes for each secret, that `dealer` and `holder` both compute.

    `salt` is the dealer's commitment to its fresh self mask: should a restored disk make a site
    use a context twice, the two dealings still have nothing in common.
    """
    parts = (context, dealer.encode(), holder.encode(), salt)
    key = keys.stream_key(keys.derive(root, "dealt-share", *parts))
    return expand(key, SECRET * secrets, np.dtype(np.uint8)).tobytes()


def deal(
    content: Sequence[bytes],
    threshold: int,
    points: Mapping[str, int],
    dealer: str,
    roots: Mapping[str, bytes],
    context: bytes,
    salt: bytes,
) -> tuple[bytes, dict[str, bytes]]:
    """Return the dealer's own share of all secrets in `content`, and the boxes that must be sent.

    `points` are those of the task's participants, in order; `roots` those shared with each peer.
    """
    participants = tuple(points)
    secret = b"".join(content)
    known = {0: secret}
    for holder in derived_holders(participants, dealer, threshold):
        known[points[holder]] = derived_share(
            roots[holder], context, dealer, holder, salt, len(content)
        )
    at, rows = list(known), list(known.values())
    boxes = {
        holder: keys.seal(
            roots[holder], context, dealer, holder, shamir.interpolate(at, rows, points[holder])
        )
        for holder in sealed_holders(participants, dealer, threshold)
    }
    return shamir.interpolate(at, rows, points[dealer]), boxes
