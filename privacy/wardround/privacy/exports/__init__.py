"""The audit log for other machines: FHIR AuditEvents, and JSON lines for a SIEM."""

from wardround.privacy.exports.fhir import fhir_lines
from wardround.privacy.exports.siem import siem_lines

__all__ = ["fhir_lines", "siem_lines"]
