"""The real data of the reference figures, as tensors."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
MEDNIST_CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@dataclass(frozen=True, slots=True)
class Part:
    """Inputs [n, ...] and classes [n]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Sites:
    """Training data by site; validation and test data for choosing and for reporting."""

    train: dict[str, Part]
    validation: dict[str, Part]
    test: dict[str, Part]

    def pooled(self) -> Part:
        """The training data of all sites together."""
        return joined(list(self.train.values()))


def joined(parts: list[Part]) -> Part:
    """Several parts as one."""
    return Part(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))


def folder() -> Path:
    """Where the real data lie: WARDROUND_DATA, else beside the repository."""
    return Path(os.environ.get("WARDROUND_DATA", REPOSITORY.parent / "shared" / "data"))


def mednist(size: int = 32) -> Sites:
    """The open half of MedNIST over the four label-skewed sites of `site_dir05`, size x size."""
    root = folder() / "mednist"
    rows = list(csv.DictReader((root / "split.csv").open()))
    images = np.stack([np.asarray(Image.open(root / row["path"])) for row in rows])
    inputs = torch.from_numpy(images).float().div_(255).sub_(0.5)[:, None]
    inputs = torch.nn.functional.adaptive_avg_pool2d(inputs, size)
    targets = torch.tensor([MEDNIST_CLASSES.index(row["label"]) for row in rows])

    def part(split: str, site: str | None) -> Part:
        chosen = [
            i
            for i, row in enumerate(rows)
            if row["split"] == split and site in (None, row["site_dir05"])
        ]
        return Part(inputs[chosen], targets[chosen])

    return Sites(
        train={f"site-{s}": part("train", s) for s in "0123"},
        validation={"all": part("val", None)},
        test={"all": part("test", None)},
    )


def heart_disease(seed: int = 43) -> Sites:
    """Four hospitals, prepared as FLamby does: 13 inputs, z-scores of each hospital's own data.

    Columns slope, ca and thal are left out, then rows with a gap; two thirds are for training.
    Of those, a fifth is kept for choosing the learning rate. The z-scores' means and deviations
    are statistics of patients that no accountant has seen, as in the benchmark's own recipe; they
    do not leave the hospital.
    """
    train, validation, test = {}, {}, {}
    for index, name in enumerate(HOSPITALS):
        inputs, targets = _hospital(folder() / "heart-disease" / f"processed.{name}.data")
        order = np.random.default_rng(seed + index).permutation(len(targets))
        cut = round(len(order) * 0.66)
        inner = round(cut * 0.8)
        mean, std = inputs[order[:cut]].mean(0), inputs[order[:cut]].std(0, ddof=1) + 1e-9
        scaled = torch.from_numpy(((inputs - mean) / std).astype(np.float32))
        classes = torch.from_numpy(targets)
        for into, chosen in (
            (train, order[:inner]),
            (validation, order[inner:cut]),
            (test, order[cut:]),
        ):
            rows = torch.from_numpy(chosen)
            into[name] = Part(scaled[rows], classes[rows])
    # One validation set for all: some hospitals' own is six patients, which chooses nothing.
    return Sites(train, {"all": joined(list(validation.values()))}, test)


def _hospital(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = [line.split(",") for line in path.read_text().split() if line]
    kept = [row[:10] + row[13:] for row in rows]
    whole = np.array([[float(v) for v in row] for row in kept if "?" not in row])
    raw, disease = whole[:, :10], (whole[:, 10] > 0).astype(np.int64)
    columns = [raw[:, i] for i in range(10) if i not in (2, 6)]
    columns += [raw[:, 2] == value for value in (2, 3, 4)]
    columns += [raw[:, 6] == value for value in (1, 2)]
    return np.stack([np.asarray(c, dtype=np.float64) for c in columns], 1), disease
