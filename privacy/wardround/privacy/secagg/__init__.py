"""Secure aggregation that holds against a coordinator who deviates; see privacy/README.md."""

from wardround.privacy.secagg.aggregator import Aggregator
from wardround.privacy.secagg.codec import decode, digest, encode
from wardround.privacy.secagg.messages import (
    BookAck,
    Confirmation,
    KeyAdvert,
    KeyBook,
    Opening,
    Quorum,
    Shares,
    Survivors,
    SurvivorSet,
    SurvivorSignature,
    Task,
    Upload,
    UploadHeader,
)
from wardround.privacy.secagg.parameters import RunSpec, SignedRunSpec
from wardround.privacy.secagg.participant import Participant
from wardround.privacy.secagg.quantization import Aggregate, Contribution, next_clip
from wardround.privacy.secagg.replay import Replayed, replay
from wardround.privacy.secagg.segments import Ring, ring_type, vector_digest
from wardround.privacy.secagg.state import Store

__all__ = [
    "Aggregate",
    "Aggregator",
    "BookAck",
    "Confirmation",
    "Contribution",
    "KeyAdvert",
    "KeyBook",
    "Opening",
    "Participant",
    "Quorum",
    "Replayed",
    "Ring",
    "RunSpec",
    "Shares",
    "SignedRunSpec",
    "Store",
    "SurvivorSet",
    "SurvivorSignature",
    "Survivors",
    "Task",
    "Upload",
    "UploadHeader",
    "decode",
    "digest",
    "encode",
    "next_clip",
    "replay",
    "ring_type",
    "vector_digest",
]
