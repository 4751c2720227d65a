"""The de-identification profile of a run: which options are on, read from a TOML file."""

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from wardround.datasets.deidentify.table import Option
from wardround.datasets.errors import DeidentificationError
from wardround.privacy import canonical

# CID 7050 De-identification Method (PS3.16), scheme DCM.
METHODS = {
    None: ("113100", "Basic Application Confidentiality Profile"),
    Option.PIXELS: ("113101", "Clean Pixel Data Option"),
    Option.GRAPHICS: ("113103", "Clean Graphics Option"),
    Option.STRUCTURED: ("113104", "Clean Structured Content Option"),
    Option.DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.MODIFIED_DATES: (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    Option.PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.DEVICE: ("113109", "Retain Device Identity Option"),
    Option.UIDS: ("113110", "Retain UIDs Option"),
    Option.SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.INSTITUTION: ("113112", "Retain Institution Identity Option"),
}
EDITION = "2024b"  # of PS3.15, whose table E.1-1 stands in annex_e.txt
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels to blank: left, top, right, bottom; right and bottom excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise DeidentificationError("a box is [left, top, right, bottom] with left < right")


@dataclass(frozen=True, slots=True)
class Profile:
    """Options and limits of a run. The default is the Basic Profile and nothing else.

    `options`: those of PS3.15 section E.3 that are on. `modalities`: pass only these (empty: any).
    `boxes`: with clean_pixel_data, blanked in every frame. `max_file_mb`: larger files are
    refused unread. `max_pixels_mb`: decoded size above which an image is refused.
    """

    options: frozenset[Option] = frozenset()
    modalities: frozenset[str] = frozenset()
    boxes: tuple[Box, ...] = field(default=())
    max_file_mb: int = 2048
    max_pixels_mb: int = 4096

    def __post_init__(self) -> None:
        if {Option.FULL_DATES, Option.MODIFIED_DATES} <= self.options:
            raise DeidentificationError(
                "retain_full_dates and retain_modified_dates exclude each other; turn one off"
            )
        if self.boxes and Option.PIXELS not in self.options:
            raise DeidentificationError("boxes are blanked only with clean_pixel_data = true")
        if not 1 <= self.max_file_mb <= 1 << 20 or not 1 <= self.max_pixels_mb <= 1 << 20:
            raise DeidentificationError("limits are whole numbers of MiB, 1 to 1048576")

    @property
    def max_file_bytes(self) -> int:
        """The largest file that is read, in bytes."""
        return self.max_file_mb * _MIB

    @property
    def max_pixel_bytes(self) -> int:
        """The largest decoded image, in bytes."""
        return self.max_pixels_mb * _MIB

    def methods(self) -> tuple[tuple[str, str], ...]:
        """Return code and meaning of the Basic Profile and of each option that is on."""
        on = [option for option in METHODS if option is None or option in self.options]
        return tuple(sorted(METHODS[option] for option in on))

    def to_json(self) -> dict[str, canonical.Json]:
        """Return the canonical-JSON form, as it stands in the report."""
        return {
            "options": sorted(option.value for option in self.options),
            "modalities": sorted(self.modalities),
            "boxes": [[box.left, box.top, box.right, box.bottom] for box in self.boxes],
            "max_file_mb": self.max_file_mb,
            "max_pixels_mb": self.max_pixels_mb,
        }

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the profile."""
        return hashlib.sha256(
            b"wardround/v1/deidentify/profile\0" + canonical.dumps(self.to_json())
        ).hexdigest()


def load_profile(path: Path) -> Profile:
    """Read a profile from a TOML file.

    ```toml
    modalities = ["MR", "CT"]        # optional; others are refused
    max_file_mb = 2048               # optional
    max_pixels_mb = 4096             # optional
    boxes = [[0, 0, 512, 40]]        # optional, with clean_pixel_data
    [options]                        # all false unless named
    retain_modified_dates = true
    ```

    Raises DeidentificationError naming the entry that is wrong.
    """
    try:
        # Windows editors put a byte order mark in front.
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise DeidentificationError("the profile file does not exist") from None
    except OSError as error:
        raise DeidentificationError(f"the profile cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DeidentificationError("the profile is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise DeidentificationError(f"the profile is not readable TOML: {error}") from None
    known = {"options", "modalities", "boxes", "max_file_mb", "max_pixels_mb"}
    if extra := sorted(set(document) - known):
        raise DeidentificationError(f"the profile has an unknown entry: {extra[0][:40]}")
    return Profile(
        options=_options(document.get("options", {})),
        modalities=_modalities(document.get("modalities", [])),
        boxes=_boxes(document.get("boxes", [])),
        max_file_mb=_whole(document.get("max_file_mb", 2048)),
        max_pixels_mb=_whole(document.get("max_pixels_mb", 4096)),
    )


def _options(table: object) -> frozenset[Option]:
    if not isinstance(table, dict):
        raise DeidentificationError("[options] holds names of options with true or false")
    on: set[Option] = set()
    for name, value in table.items():
        if name not in set(Option):
            raise DeidentificationError(f"no such option: {str(name)[:40]}; see the README's list")
        if not isinstance(value, bool):
            raise DeidentificationError(f"option {name} is true or false")
        if value:
            on.add(Option(name))
    return frozenset(on)


def _modalities(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise DeidentificationError('modalities is a list such as ["MR", "CT"]')
    return frozenset(value)


def _boxes(value: object) -> tuple[Box, ...]:
    if not isinstance(value, list):
        raise DeidentificationError("boxes is a list of [left, top, right, bottom]")
    boxes = []
    for entry in value:
        if not (isinstance(entry, list) and len(entry) == 4 and all(map(_is_whole, entry))):
            raise DeidentificationError("a box is four whole numbers: left, top, right, bottom")
        boxes.append(Box(*entry))
    return tuple(boxes)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DeidentificationError("limits are whole numbers of MiB")
    return value
