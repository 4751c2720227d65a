"""Text from others, made safe to look at: what cannot be seen is shown as its code point.

Escaping markup is the renderer's work (autoescape, JSON, Typst data). It does not help against
characters that are legal but invisible: a newline that fakes a second line, a right-to-left
override that turns a name around, a zero-width letter that makes two names look alike.
Source: Unicode Standard Annex 9 (bidirectional controls), Technical Report 36 (visual security).
"""

import unicodedata

MAX_LENGTH = 400
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MAX_COMBINING = 4


def printable(text: str, *, limit: int = MAX_LENGTH) -> str:
    """Return `text` on one line, invisible characters written as `<U+202E>`, cut after `limit`.

    Longer runs of combining marks than any script needs are written out too: they are used to
    paint over neighbouring lines.
    """
    shown, combining = [], 0
    for character in text[:limit]:
        category = unicodedata.category(character)
        combining = combining + 1 if category in {"Mn", "Me"} else 0
        hidden = category in _INVISIBLE or combining > _MAX_COMBINING
        shown.append(code_point(character) if hidden else character)
    if len(text) > limit:
        shown.append(f" … ({len(text) - limit} more characters)")
    return "".join(shown)


def code_point(character: str) -> str:
    """Return `<U+202E>` for a character."""
    return f"<U+{ord(character):04X}>"
