"""Invented patients: data sets for the demo, the notebooks and the tests, in hospitals' own forms.

Everything comes from a seed and from arithmetic: no picture of a person has been near it. The
classes can be learned by a small network in a minute, though not from a single pixel: place, size,
contrast, shading and noise vary from patient to patient, and every `scanner` has its own gain,
shading and sharpness, so that hospitals differ as they really do.

`images` writes PNG files in one folder per class, `volumes` NIfTI files in the layout of the
Medical Segmentation Decathlon (Antonelli et al., Nat. Commun. 13:4128, 2022), `table` a CSV file
and its schema; `phantom_dicom` writes series. The generator is numpy's: nothing here is a secret.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.errors import DataError

Image: TypeAlias = NDArray[np.float32]

CLASSES = ("clear", "nodule", "cavity", "fibrosis")
TISSUES = ("background", "head", "tail")


@dataclass(frozen=True, slots=True)
class Scanner:
    """How one device turns what is there into numbers: the difference between two hospitals."""

    gain: float
    offset: float
    noise: float
    shading: tuple[float, float]

    @classmethod
    def of(cls, number: int) -> "Scanner":
        """Return scanner `number`; the same number is always the same device."""
        random = np.random.default_rng([7919, number])
        tilt = random.uniform(-0.15, 0.15, 2)
        return cls(
            gain=float(random.uniform(0.75, 1.1)),
            offset=float(random.uniform(0.0, 0.1)),
            noise=float(random.uniform(0.04, 0.08)),
            shading=(float(tilt[0]), float(tilt[1])),
        )

    def record(self, scene: Image, random: np.random.Generator) -> Image:
        """Return what the device makes of `scene` (any shape, about 0 to 1): still float."""
        first, second = (np.linspace(-1, 1, n, dtype=np.float32) for n in scene.shape[:2])
        shade = 1 + self.shading[0] * first[:, None] + self.shading[1] * second[None, :]
        shade = shade.reshape(shade.shape + (1,) * (scene.ndim - 2))
        noise = random.normal(0, self.noise, scene.shape)
        recorded: Image = (self.offset + self.gain * shade * scene + noise).astype(np.float32)
        return recorded


def images(
    folder: Path,
    *,
    seed: int,
    patients: int = 120,
    images_per_patient: tuple[int, int] = (1, 4),
    classes: Sequence[str] = CLASSES,
    mix: Sequence[float] | None = None,
    size: int = 64,
    scanner: int | None = None,
) -> Path:
    """Write `folder/<class>/<patient>_<nn>.png`, grey, 8 bits, `size` x `size`; return `folder`.

    `images_per_patient` is the least and the greatest number of pictures of one patient; `mix`
    the share of each class (equal when not given), by which sites are made uneven; `scanner` the
    device, one for each seed when not given. All pictures of a patient show the same finding in
    the same place, seen again. Patients are called `MRN<seed><nnnn>`. Raises DataError for a class
    that is not in `CLASSES`.
    """
    from PIL import Image as Pillow

    if unknown := sorted(set(classes) - set(CLASSES)):
        raise DataError(f"no phantom of class {unknown[0]!r}; choose from {', '.join(CLASSES)}")
    random = np.random.default_rng([seed, 1])
    device = Scanner.of(seed if scanner is None else scanner)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for patient, name in enumerate(_spread(classes, mix, patients, random)):
        body = _Body.of(random)
        for shot in range(int(random.integers(images_per_patient[0], images_per_patient[1] + 1))):
            scene = body.scene(name, size, random)
            pixels = np.clip(device.record(scene, random) * 255, 0, 255).astype(np.uint8)
            file = folder / name / f"{record_number(seed, patient)}_{shot + 1:02d}.png"
            Pillow.fromarray(pixels).save(file)
    return folder


def volumes(
    folder: Path,
    *,
    seed: int,
    patients: int = 12,
    size: int = 24,
    scanner: int | None = None,
    scale: float = 255.0,
) -> Path:
    """Write NIfTI volumes with labels in Decathlon layout and return `folder`.

    Each volume is about `size` voxels wide (two more or fewer along each axis), 1 mm, RAS, float32
    with a range of about 0 to `scale`. Labels: 0 background, 1 head, 2 tail of one curved body.
    """
    random = np.random.default_rng([seed, 2])
    device = Scanner.of(seed if scanner is None else scanner)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cases: list[dict[str, str]] = []
    for patient in range(patients):
        scene, label = organ(size, random)
        recorded = (np.clip(device.record(scene, random), 0, None) * scale).astype(np.float32)
        file = f"{record_number(seed, patient)}.nii.gz"
        save_volume(folder / "imagesTr" / file, recorded)
        save_volume(folder / "labelsTr" / file, label)
        cases.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    description = {
        "name": "Phantom",
        "description": "Invented organs in two parts",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in enumerate(TISSUES)},
        "numTraining": len(cases),
        "numTest": 0,
        "training": cases,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return folder


SCHEMA = """\
[table]
patient = "patient"
missing = ["", "?"]

[target]
column = "outcome"
classes = { well = ["0"], ill = ["1"] }

[columns.age]
type = "number"
range = [18, 100]

[columns.sex]
type = "category"
categories = ["F", "M"]

[columns.pressure]
type = "number"
range = [60, 260]
missing = ["0"]

[columns.marker]
type = "number"
range = [0, 40]

[columns.pain]
type = "category"
categories = ["none", "typical", "atypical"]
"""


def table(
    folder: Path, *, seed: int, patients: int = 200, shift: float = 0.0, gaps: float = 0.05
) -> Path:
    """Write `folder/patients.csv` and `folder/schema.toml`; return the path of the CSV file.

    About one patient in five has two rows (visits). `shift` makes a site's patients older and
    sicker (in standard deviations of age); `gaps` is the share of missing values.
    """
    random = np.random.default_rng([seed, 3])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "patients.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "age", "sex", "pressure", "marker", "pain", "outcome"])
        for patient in range(patients):
            age = float(np.clip(random.normal(58 + 10 * shift, 10), 18, 100))
            sex = int(random.integers(2))
            risk = (age - 58) / 10 + 0.5 * sex + random.normal(0, 0.7)
            for _ in range(1 + int(random.random() < 0.2)):
                pressure = float(np.clip(random.normal(125 + 12 * risk, 15), 60, 260))
                marker = float(np.clip(random.gamma(2.0, np.exp(0.35 * risk)), 0, 40))
                pain = int(np.clip(np.round(random.normal(0.6 + 0.5 * risk, 0.8)), 0, 2))
                score = 0.8 * risk + 0.02 * (pressure - 125) + 0.25 * (marker - 2) + 0.6 * pain - 1
                ill = int(random.random() < 1 / (1 + np.exp(-1.5 * score)))
                values = [
                    f"{age:.0f}",
                    "FM"[sex],
                    f"{pressure:.0f}",
                    f"{marker:.2f}",
                    ("none", "typical", "atypical")[pain],
                ]
                shown = [value if random.random() > gaps else "?" for value in values]
                rows.writerow([record_number(seed, patient), *shown, ill])
    (folder / "schema.toml").write_text(SCHEMA, encoding="utf-8")
    return path


def save_volume(path: Path, voxels: NDArray[np.generic]) -> None:
    """Write a NIfTI file of 1 mm voxels in RAS order, the first at the origin."""
    import nibabel

    # nibabel says that it is typed, though its image classes are not.
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)  # type: ignore[no-untyped-call]


def record_number(seed: int, number: int) -> str:
    """Return how patient `number` is called."""
    return f"MRN{seed:03d}{number:04d}"


def _spread(
    classes: Sequence[str],
    mix: Sequence[float] | None,
    patients: int,
    random: np.random.Generator,
) -> list[str]:
    """Give each patient a class, as near to the shares of `mix` as whole patients allow."""
    shares = np.ones(len(classes)) if mix is None else np.asarray(mix, dtype=np.float64)
    if len(shares) != len(classes) or shares.min() < 0 or shares.sum() <= 0:
        raise DataError("the mix needs one share, not below zero, for each class")
    ends = np.round(np.cumsum(shares / shares.sum()) * patients).astype(int)
    counts = np.diff(ends, prepend=0)
    names = [name for name, count in zip(classes, counts, strict=True) for _ in range(count)]
    random.shuffle(names)
    return names


@dataclass(frozen=True, slots=True)
class _Body:
    """One patient: an elliptic section of a body, and where in it the finding sits."""

    axes: tuple[float, float]
    place: tuple[float, float]
    extent: float
    contrast: float
    angle: float

    @classmethod
    def of(cls, random: np.random.Generator) -> "_Body":
        turn, radius = random.uniform(0, 2 * np.pi), 0.4 * np.sqrt(random.random())
        return cls(
            axes=(float(random.uniform(0.7, 0.9)), float(random.uniform(0.6, 0.85))),
            place=(float(radius * np.cos(turn)), float(radius * np.sin(turn))),
            extent=float(random.uniform(0.13, 0.24)),
            contrast=float(random.uniform(0.4, 0.65)),
            angle=float(random.uniform(0, np.pi)),
        )

    def scene(self, name: str, size: int, random: np.random.Generator) -> Image:
        """Return one view, float32 [size, size], about 0 to 1; each view is a little moved."""
        move = random.normal(0, 0.04, 2)
        y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
        y, x = y - move[0], x - move[1]
        distance = np.hypot(y / self.axes[0], x / self.axes[1])
        body = _edge(1 - distance)
        scene = body * (0.3 + 0.08 * _cloud(size, random))
        away = np.hypot(y - self.place[0], x - self.place[1])
        if name == "nodule":
            finding = _edge(self.extent - away)
        elif name == "cavity":
            finding = _edge(self.extent - away) - _edge(0.55 * self.extent - away)
        elif name == "fibrosis":
            along = y * np.cos(self.angle) + x * np.sin(self.angle)
            finding = _edge(4 * self.extent - away) * (np.sin(along * 28) > 0.3)
        else:
            finding = np.zeros_like(away)
        result: Image = (scene + body * self.contrast * finding).astype(np.float32)
        return result


def _edge(inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 inside, 0 outside, with a soft border of about one pixel in 64."""
    return np.clip(0.5 + inside * 20, 0, 1)


def _cloud(size: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth texture [size, size] between -1 and 1: a few random waves."""
    y, x = np.meshgrid(*[np.linspace(0, 2 * np.pi, size)] * 2, indexing="ij")
    total = np.zeros((size, size))
    for _ in range(4):
        waves = random.integers(-3, 4, 2)
        total += np.sin(waves[0] * y + waves[1] * x + random.uniform(0, 2 * np.pi))
    return total / 4


def organ(size: int, random: np.random.Generator) -> tuple[Image, NDArray[np.uint8]]:
    """Return scene and label [X, Y, Z] of one bent body made of a thick head and a thin tail."""
    shape = tuple(int(n) for n in size + random.integers(-2, 3, 3))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    centre = random.uniform(-0.15, 0.15, 3)
    bend = random.uniform(0.2, 0.5)
    along = np.linspace(-0.6, 0.6, 13)
    thick = random.uniform(0.3, 0.38) - 0.08 * (along + 0.6)
    label = np.zeros(shape, dtype=np.uint8)
    nearest = np.full(shape, np.inf)
    for step, radius in zip(along, thick, strict=True):
        point = centre + np.array([bend * step**2, step, 0.2 * step])
        away = np.sqrt(((grid - point[:, None, None, None]) ** 2).sum(0)) - radius
        closer = (away < nearest) & (away < 0)
        label[closer] = 1 if step < 0.05 else 2
        nearest = np.minimum(nearest, away)
    texture = 0.06 * np.sin(5 * grid[0] + 3 * grid[1] + random.uniform(0, 6))
    scene = 0.3 + texture + 0.3 * (label == 1) + 0.22 * (label == 2)
    return scene.astype(np.float32), label
