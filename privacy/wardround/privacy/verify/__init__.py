"""The verifier of evidence bundles: for someone who trusts neither coordinator nor sites.

Needs the base install alone (numpy and cryptography).
"""

from wardround.privacy.verify.findings import CHECKS, EXIT, Finding, Status, Verification
from wardround.privacy.verify.policy import Policy, site_line, write_policy
from wardround.privacy.verify.receipts import SavedReceipt
from wardround.privacy.verify.verifier import verify

__all__ = [
    "CHECKS",
    "EXIT",
    "Finding",
    "Policy",
    "SavedReceipt",
    "Status",
    "Verification",
    "site_line",
    "verify",
    "write_policy",
]
