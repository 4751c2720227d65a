"""Dates moved by whole days, the same for all of a patient, so that intervals stay true."""

import datetime
import re

_DATE = re.compile(r"(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})")
_STAMP = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?")


def shift_date(value: str, days_back: int) -> str | None:
    """Return the DA `value` (YYYYMMDD) moved into the past, None when it is not a date."""
    found = _DATE.fullmatch(value.strip(" \0"))
    return _moved(found[1], found[2], found[3], days_back) if found else None


def shift_datetime(value: str, days_back: int) -> str | None:
    """Return the DT `value` moved by whole days, of the same precision; None when it is not one.

    The time of day stays. The offset from UTC goes: it tells the place.
    """
    found = _STAMP.fullmatch(value.strip(" \0"))
    if not found:
        return None
    moved = _moved(found[1], found[2] or "07", found[3] or "02", days_back)
    if moved is None:
        return None
    if found[2] is None:
        return moved[:4]
    if found[3] is None:
        return moved[:6]
    return moved + (found[4] or "")


def _moved(year: str, month: str, day: str, days_back: int) -> str | None:
    try:
        moved = datetime.date(int(year), int(month), int(day)) - datetime.timedelta(days_back)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04}{moved.month:02}{moved.day:02}"
