"""The real data of the reference figures, as tensors; what chooses and what reports lie apart.

`mednist` and `heart_disease` give what may be trained on and chosen with; the test parts come from
functions of their own, which nothing that trains or chooses calls. Who is in which part is decided
by SHA-256 of the content itself (after a fixed word), so it is the same everywhere.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
MEDNIST_CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
SIZE = 32
WORD = b"wardround reference split 2"
BLOCK = 50
HELD_OUT = 0.1


@dataclass(frozen=True, slots=True)
class Part:
    """Inputs [n, ...] and classes [n]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Learning:
    """Training data by site, and the validation data that choose."""

    train: dict[str, Part]
    validation: dict[str, Part]


def joined(parts: list[Part]) -> Part:
    """Several parts as one."""
    return Part(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))


def folder() -> Path:
    """Where the real data lie: WARDROUND_DATA, else beside the repository."""
    return Path(os.environ.get("WARDROUND_DATA", REPOSITORY.parent / "shared" / "data"))


def mednist() -> Learning:
    """The open half of MedNIST over the four label-skewed sites of `site_dir05`, 32 x 32."""
    return Learning(
        {f"site-{s}": _images("train", s) for s in "0123"}, {"all": _images("validation")}
    )


def mednist_test() -> dict[str, Part]:
    """About a tenth of each class, in whole blocks."""
    return {"all": _images("test")}


def _images(part: str, site: str | None = None) -> Part:
    rows = [
        row
        for row, where in zip(_rows(), _parts(), strict=True)
        if where == part and site in (None, row["site_dir05"])
    ]
    images = np.stack([np.asarray(Image.open(_mednist() / row["path"])) for row in rows])
    inputs = torch.from_numpy(images).float().div_(255).sub_(0.5)[:, None]
    targets = torch.tensor([MEDNIST_CLASSES.index(row["label"]) for row in rows])
    return Part(torch.nn.functional.adaptive_avg_pool2d(inputs, SIZE), targets)


def _mednist() -> Path:
    return folder() / "mednist"


@cache
def _rows() -> tuple[dict[str, str], ...]:
    return tuple(csv.DictReader((_mednist() / "split.csv").read_text().splitlines()))


@cache
def _parts() -> tuple[str, ...]:
    """The part of every row: test, validation or train.

    Blocks of 50 consecutive numbers stay together, as in split.csv, since neighbours may be slices
    of one scan. Of each class, in the order of their hashes, as many blocks as make a tenth of the
    class are for test, then as many for validation. A block that split.csv calls test is never one
    of the test blocks here: earlier trials had reported on those.
    """
    blocks: dict[tuple[str, int], list[dict[str, str]]] = defaultdict(list)
    for row in _rows():
        blocks[row["label"], int(Path(row["path"]).stem) // BLOCK].append(row)
    found: dict[str, str] = {}
    for label in MEDNIST_CLASSES:
        mine = sorted((rows for key, rows in blocks.items() if key[0] == label), key=_hash)
        wanted = HELD_OUT * sum(map(len, mine))
        for part in ("test", "validation"):
            size = 0
            for rows in mine:
                taken = rows[0]["path"] in found
                if size < wanted and not taken and (part, rows[0]["split"]) != ("test", "test"):
                    found |= {row["path"]: part for row in rows}
                    size += len(rows)
    return tuple(found.get(row["path"], "train") for row in _rows())


def _hash(rows: list[dict[str, str]]) -> bytes:
    digest = hashlib.sha256(WORD)
    for row in rows:
        digest.update((_mednist() / row["path"]).read_bytes())
    return digest.digest()


def heart_disease(split: int, *, flamby: bool = False) -> Learning:
    """Four hospitals; two thirds of each for learning, a fifth of these for validation.

    Every `split` has a test part of its own; with `flamby` all have that of the FLamby benchmark
    (see flamby_split.py), and `split` says who is for validation alone.

    13 inputs prepared as FLamby does: columns slope, ca and thal are left out, then rows with a
    gap; z-scores of each hospital's own learning data. Their means and deviations are statistics of
    patients that no accountant has seen, as in the benchmark's own recipe; they do not leave the
    hospital.
    """
    parts = {name: _hospital(name, split, flamby) for name in HOSPITALS}
    # One validation set for all: some hospitals' own is a handful of patients.
    return Learning(
        {name: parts[name][0] for name in HOSPITALS},
        {"all": joined([parts[name][1] for name in HOSPITALS])},
    )


def heart_disease_test(split: int, *, flamby: bool = False) -> dict[str, Part]:
    """The other third of each hospital."""
    return {name: _hospital(name, split, flamby)[2] for name in HOSPITALS}


def _hospital(name: str, split: int, flamby: bool) -> tuple[Part, Part, Part]:
    text = (folder() / "heart-disease" / f"processed.{name}.data").read_text()
    rows = [row for row in text.split() if "?" not in _kept(row)]
    test = set(_flamby_test()[name]) if flamby else set[int]()
    order = sorted(
        range(len(rows)),
        key=lambda i: (i in test, hashlib.sha256(WORD + f" {split} {rows[i]}".encode()).digest()),
    )
    rows = [rows[i] for i in order]
    whole = np.array([[float(v) for v in _kept(row)] for row in rows])
    raw, disease = whole[:, :10], (whole[:, 10] > 0).astype(np.int64)
    columns = [raw[:, i] for i in range(10) if i not in (2, 6)]
    columns += [raw[:, 2] == value for value in (2, 3, 4)]
    columns += [raw[:, 6] == value for value in (1, 2)]
    inputs = np.stack([np.asarray(c, dtype=np.float64) for c in columns], 1)
    cut = len(rows) - len(test) if flamby else round(len(rows) * 0.66)
    inner = round(cut * 0.8)
    mean, std = inputs[:cut].mean(0), inputs[:cut].std(0, ddof=1) + 1e-9
    scaled = torch.from_numpy(((inputs - mean) / std).astype(np.float32))
    classes = torch.from_numpy(disease)
    first, second, third = (
        Part(scaled[a:b], classes[a:b]) for a, b in ((0, inner), (inner, cut), (cut, len(rows)))
    )
    return first, second, third


@cache
def _flamby_test() -> dict[str, list[int]]:
    """The test rows of each hospital, numbered among its complete records in file order."""
    kept = Path(__file__).with_name("flamby_split.json").read_text(encoding="utf-8")
    found: dict[str, list[int]] = json.loads(kept)
    return found


def _kept(row: str) -> list[str]:
    values = row.split(",")
    return values[:10] + values[13:]
