"""Real pictures in three parts that share no scan: to fit on, to choose with, to report on.

MedNIST numbers its pictures in order, so that neighbours come from one scan: blocks of 50 numbers
stay together. Each hippocampus volume stands alone. A block's part depends on the SHA-256 of its
name and on nothing else: half is `fit`, a quarter each `choose` and `report`. Tests read `report`.
"""

import hashlib
from pathlib import Path
from typing import Literal

Part = Literal["fit", "choose", "report"]
BLOCK = 50


def part(path: Path) -> Part:
    """Return the part to which a picture of MedNIST or a volume of Hippocampus belongs."""
    block = path.name
    if path.suffix == ".jpeg":
        block = f"{path.parent.name}/{int(path.stem) // BLOCK}"
    parts: tuple[Part, ...] = ("fit", "fit", "choose", "report")
    return parts[hashlib.sha256(block.encode()).digest()[0] % 4]


def pictures(data: Path, which: Part) -> list[Path]:
    """Return the pictures of MedNIST in one part, by path."""
    return [path for path in sorted((data / "mednist").rglob("*.jpeg")) if part(path) == which]


def volumes(data: Path, which: Part) -> list[Path]:
    """Return the volumes of Hippocampus in one part, by path."""
    found = sorted((data / "hippocampus").rglob("imagesTr/hippo*.nii.gz"))
    return [path for path in found if part(path) == which]
