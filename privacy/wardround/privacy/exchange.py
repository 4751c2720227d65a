"""Names that both ends of an exchange write and read: the form of a Flower message.

Every exchange between coordinator and site is one Flower message of one type. Its content is a
record (what is asked, its bytes, and a payload if that is small) and, for a large payload, one flat
array. Flower carries them and understands none of them.

The form has a version: a site runs an exchange only when the bundle that names it (the FAB, whose
digest is pinned here) is the one that this version of Wardround builds.
"""

from typing import Final

MESSAGE_TYPE: Final = "query.wardround"
"""The one Flower message type in use."""

RECORD: Final = "wardround"
"""Name of the record that holds `KIND` and `BODY`."""

KIND: Final = "kind"
BODY: Final = "body"

PAYLOAD: Final = "payload"
"""Name of the payload: of a third field of the record where it is small, else of the one array
(flat, uint8) in the record of arrays; of neither where there is none."""

INLINE_PAYLOAD: Final = 1024 * 1024
"""Largest payload in bytes that goes into the record: Flower then moves three objects for a message
rather than six or more, and each of them costs a request."""

ARRAYS: Final = "payload"
"""Name of the record of arrays, which is there for a large payload alone."""

ARRAY_DTYPE: Final = "uint8"
ARRAY_FORM: Final = "bytes"
"""Flower's `stype` of that array: the bytes themselves, without NumPy's file header."""

ERROR: Final = "error"
"""Kind of a reply that says why there is no answer; its body is opaque here."""

MAX_KIND: Final = 64
MAX_BODY: Final = 4 * 1024 * 1024
"""Largest body in bytes; whatever is larger belongs into the payload."""

RUN_KEY: Final = "wardround-run"
"""Run-config key under which Flower carries Wardround's own run id."""

FAB_SHA256: Final = "17972200d9ee332975b723f15bbb32cce5c7bc6ef9e0a630bdfddae2f5d58262"
"""Digest of the one Flower bundle that a site runs an exchange for."""
