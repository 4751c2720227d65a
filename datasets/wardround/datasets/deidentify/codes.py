"""Codes of public schemes (PS3.16 section 8): what anybody can look up names no patient."""

import re
from functools import lru_cache
from typing import cast

_FORMS = {
    "SCT": re.compile(r"\d{6,18}"),
    "SRT": re.compile(r"[A-Z]\d?-[0-9A-Z]{1,7}"),
    "SNM3": re.compile(r"[A-Z]\d?-[0-9A-Z]{1,7}"),
    "DCM": re.compile(r"\d{6}"),
    "LN": re.compile(r"\d{1,7}-\d"),
    "RADLEX": re.compile(r"RID\d{1,6}"),
    "ICD10": re.compile(r"[A-Z]\d{2}(\.\d{1,3})?"),
    "I10": re.compile(r"[A-Z]\d{2}(\.\d{1,3})?"),
}


@lru_cache(maxsize=1)
def _listed() -> dict[tuple[str, str], str]:
    # Imported late: a large module that only few objects need.
    from pydicom.sr._concepts_dict import concepts

    schemes = cast(dict[str, dict[str, dict[str, tuple[str, list[int]]]]], concepts)
    return {
        (scheme, code): words
        for scheme, keywords in schemes.items()
        for codes in keywords.values()
        for code, (words, _) in codes.items()
    }


def public_scheme(scheme: str) -> bool:
    """Tell whether `scheme` (Coding Scheme Designator) is a public one."""
    return scheme in _FORMS or scheme == "UCUM"


def public_code(scheme: str, code: str) -> bool:
    """Tell whether `code` is listed by the standard, or of the form codes of `scheme` have."""
    form = _FORMS.get(scheme)
    return (scheme, code) in _listed() or bool(form and form.fullmatch(code))


def meaning(scheme: str, code: str) -> str | None:
    """Return the standard's own words for a code, None when it does not list it."""
    return _listed().get((scheme, code))
