"""Small pieces of wording that every report shares."""

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal

from wardround.privacy.presentation.marks import Marked

_STEP = Decimal("0.0001")


def epsilon(text: str) -> str:
    """Return an epsilon for people: at most four decimals, rounded up, so never understated."""
    if not text:
        return "–"
    value = Decimal(text)
    if not value.is_finite():
        return "unbounded"
    if 0 < value < _STEP:
        return f"{value:.2e}"
    return f"{value.quantize(_STEP, ROUND_CEILING).normalize():f}"


def listing(names: Iterable[str]) -> str:
    """Return names as a sentence part: "a, b and c"."""
    found = list(names)
    if len(found) < 2:
        return "".join(found) or "none"
    return f"{', '.join(found[:-1])} and {found[-1]}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return "1 site", "3 sites"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short(digest: str) -> str:
    """Return the first 16 digits of a digest; the full one stands in a table."""
    return f"{digest[:16]}…" if len(digest) > 16 else digest


def pseudonym(name: str) -> str:
    """Return the name of a data set for a table or a card; the full one stands in a heading."""
    return f"{name[:12]}…" if len(name) > 20 else name


def yes(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def or_dash(text: str) -> str:
    """Return the text, or a dash where there is none."""
    return text or "–"


def grouped(value: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,}"


def spans(numbers: list[int]) -> str:
    """Return sorted numbers with runs drawn together: "1-3, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in parts)


def attempt(number: int, nth: int = 1, *, final: bool = False) -> str:
    """Return the name of an attempt at a round; "–" when it belongs to no round.

    A `final` round trains nothing: it evaluates the model that training led to.
    """
    if not number:
        return "–"
    name = f"{number} (final)" if final else str(number)
    return name if nth <= 1 else f"{name}, attempt {nth}"


def tally(counts: Iterable[tuple[str, Marked[int]]]) -> str:
    """Return named counts as text: "images 2,140, rejected 12"."""
    return ", ".join(f"{name.replace('_', ' ')} {count.value:,}" for name, count in counts)
