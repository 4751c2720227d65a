"""Fit and measure the detector of burned-in text on real slices with and without rendered text.

    python benchmarks/burned_in_text.py fit DATA       writes the detector's weights
    python benchmarks/burned_in_text.py measure DATA   prints false alarms and misses

DATA holds mednist/ and hippocampus/. Half of the slices is for fitting, the other for measuring.
Text is invented: names, dates and numbers in every font this machine has, 8 to 48 pixels high, at
any place, bright or dark, upright or turned, on slices at their own size or enlarged to 1024
pixels, with noise, inverted, or after JPEG.
"""

import argparse
import io
import multiprocessing
import random
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from results import record

from wardround.datasets.deidentify import burned

Picture = NDArray[np.float64]
Box = tuple[int, int, int, int]

FONTS = sorted(
    str(path)
    for path in Path("/usr/share/fonts/truetype").rglob("*.ttf")
    if "Math" not in path.name
)
SIDES = (128, 192, 256, 320, 512, 512, 512, 768, 1024)
SIZES = (8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28, 32, 40, 48)
NAMES = ("DOE", "JANE", "SMITH", "MARY", "HOSPITAL", "MÜLLER", "Garcia", "Nguyen", "Lopez",
         "Anderson", "Schmidt", "O'Neil", "Kowalski", "Chen", "Okafor", "Ivanova")  # fmt: skip
HIDDEN = 12


@dataclass(frozen=True)
class Sample:
    """One picture's chains: row 0 is 1 for text, 0 for none, 2 for partly; then the measures."""

    text: str
    size: int
    shape: tuple[int, int]
    chains: NDArray[np.float32]


def slices(data: Path, half: int) -> list[Path]:
    """Return every other slice or volume, by `half` 0 or 1."""
    pictures = sorted((data / "mednist").rglob("*.jpeg"))[half::2]
    return pictures + sorted((data / "hippocampus").rglob("imagesTr/hippo*.nii.gz"))[half::2] * 12


def background(rng: random.Random, sources: list[Path]) -> Picture:
    path = rng.choice(sources)
    if path.suffix == ".jpeg":
        picture = np.asarray(Image.open(path).convert("L"), np.float64)
    else:
        volume = np.asarray(nibabel.load(path).dataobj, np.float64)
        axis = rng.randrange(3)
        picture = np.take(volume, rng.randrange(volume.shape[axis]), axis)
        picture = 255 * (picture - picture.min()) / (np.ptp(picture) + 1e-6)
    if rng.random() < 0.75:
        side = rng.choice(SIDES)
        way = rng.choice([Image.Resampling.BICUBIC, Image.Resampling.BILINEAR,
                          Image.Resampling.LANCZOS, Image.Resampling.NEAREST])  # fmt: skip
        image = Image.fromarray(picture.astype(np.uint8))
        high = int(side * image.height / image.width)
        picture = np.asarray(image.resize((side, high), way), np.float64)
    if rng.random() < 0.4:
        noise = np.random.default_rng(rng.randrange(1 << 30))
        picture = picture + noise.normal(0, rng.choice([1, 2, 4, 8]), picture.shape)
    return (255 - picture if rng.random() < 0.2 else picture).clip(0, 255)


def words(rng: random.Random) -> str:
    name, other, year = rng.choice(NAMES), rng.choice(NAMES), rng.randrange(1930, 2022)
    day, month = rng.randrange(1, 29), rng.randrange(1, 13)
    return rng.choice(
        [
            f"{name}^{other}",
            f"{day:02}/{month:02}/{year}",
            f"ID {rng.randrange(10**6, 10**9)}",
            f"{name.title()}, {other.title()} {rng.choice('MF')} {rng.randrange(20, 99)}Y",
            f"DOB {day:02}-NOV-{year} {month:02}:{day:02}",
            name,
            f"MRN:{rng.randrange(10**7)} ST. {name} Clinic",
        ]
    )


def burn(rng: random.Random, picture: Picture) -> tuple[Picture, Box, str, int]:
    """Write one line of text into a copy of `picture`."""
    high, wide = picture.shape
    size = rng.choice([s for s in SIZES if s <= high / 5] or [8])
    font = ImageFont.truetype(rng.choice(FONTS), size)
    text = words(rng)
    while len(text) > 4 and font.getlength(text) > wide - 4:
        text = text[:-1]
    left, top, right, bottom = font.getbbox(text)
    stamp = Image.new("L", (int(right - left) + 3, int(bottom - top) + 3), 0)
    draw = ImageDraw.Draw(stamp)
    draw.fontmode = rng.choice(["L", "L", "L", "L", "1"])
    draw.text((1 - left, 1 - top), text, fill=255, font=font)
    ink = np.asarray(stamp, np.float64) / 255
    if rng.random() < 0.1 and max(ink.shape) < min(high, wide):
        ink = np.rot90(ink)
    rows, columns = (min(a, b) for a, b in zip(ink.shape, picture.shape, strict=True))
    ink = ink[:rows, :columns]
    y, x = rng.randint(0, high - rows), rng.randint(0, wide - columns)
    if rng.random() < 0.5:
        y = rng.choice([0, high - rows])
    under = picture[y : y + rows, x : x + columns]
    level = rng.choice([255, 255, 255, 240, 220, 200, 170, 0, 0])
    if abs(level - float(np.median(under))) < 70:
        level = 0 if np.median(under) > 128 else 255
    result = picture.copy()
    result[y : y + rows, x : x + columns] = under * (1 - ink) + level * ink
    return result, (x, y, x + columns, y + rows), text.replace(" ", ""), size


def sample(task: tuple[int, list[Path]]) -> Sample:
    """Make picture number `seed` (odd ones carry text) and measure its chains."""
    seed, sources = task
    rng = random.Random(seed)  # noqa: S311  # pictures, no secrets
    picture, box, text, size = background(rng, sources), None, "", 0
    if seed % 2:
        picture, box, text, size = burn(rng, picture)
    if rng.random() < 0.25:
        packed = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(packed, "JPEG", quality=rng.choice([60, 85]))
        picture = np.asarray(Image.open(packed), np.float64)
    plane = np.rint(picture).astype(np.float32) * (-1 if rng.random() < 0.15 else 1)
    rows = []
    for line in burned.lines(plane):
        kind = 0.0
        if box is not None:
            wide = min(line.box[2], box[2]) - max(line.box[0], box[0])
            high = min(line.box[3], box[3]) - max(line.box[1], box[1])
            whole = (line.box[2] - line.box[0]) * (line.box[3] - line.box[1])
            share = max(0, wide) * max(0, high) / max(1, whole)
            kind = 1.0 if share > 0.6 else 2.0 if share > 0 else 0.0
        rows.append((kind, *line.measures))
    shape = np.array(rows, np.float32).reshape(-1, 1 + len(burned.MEASURES))
    return Sample(text, size, picture.shape, shape)


def samples(data: Path, half: int, count: int) -> list[Sample]:
    sources = slices(data, half)
    tasks = [(half * 10**6 + number, sources) for number in range(count)]
    with multiprocessing.Pool() as pool:
        return pool.map(sample, tasks, chunksize=16)


def fit(made: list[Sample]) -> None:
    """Fit the network of `burned.evidence` and write its weights."""
    torch.manual_seed(0)
    chains = np.concatenate([one.chains for one in made])
    chains = chains[chains[:, 0] != 2]
    means, scales = chains[:, 1:].mean(axis=0), chains[:, 1:].std(axis=0) + 1e-6
    inputs = torch.tensor(np.clip((chains[:, 1:] - means) / scales, -4, 4))
    targets = torch.tensor(chains[:, 0])
    net = torch.nn.Sequential(
        torch.nn.Linear(len(burned.MEASURES), HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1)
    )
    for rate, steps in ((0.01, 1200), (0.002, 600)):
        optimiser = torch.optim.Adam(net.parameters(), lr=rate, weight_decay=1e-4)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(inputs)[:, 0], targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it so
            optimiser.step()
    state = [value.detach().numpy() for value in net.parameters()]
    rows = [means, scales, *state[0], state[1], state[2][0], state[3]]
    header = (
        "# Made by benchmarks/burned_in_text.py: means, scales, layer 1, its bias, layer 2, bias"
    )
    lines = [" ".join(f"{number:.4g}" for number in row) for row in rows]
    target = Path(burned.__file__).with_name("burned_weights.txt")
    target.write_text("\n".join([header, *lines]) + "\n", "ascii")
    print(f"{len(chains)} chains, loss {loss.item():.4f}; weights in {target.name}")


def measure(made: list[Sample]) -> None:
    """Print how many pictures without text raise an alarm, and how much text is seen."""
    best = [max((burned.evidence(row[1:]) for row in one.chains), default=-99.0) for one in made]
    clean = np.array([s for s, one in zip(best, made, strict=True) if not one.text])
    groups = {
        "any text": lambda one: True,
        "6 signs and more": lambda one: len(one.text) >= 6,
        "... on 256 pixels and more": lambda one: len(one.text) >= 6 and min(one.shape) >= 256,
        "... and 12 pixels high": lambda one: (
            len(one.text) >= 6 and min(one.shape) >= 256 and one.size >= 12
        ),
        "on fewer than 100 pixels": lambda one: min(one.shape) < 100,
    }
    for threshold in (-2.0, -1.0, 0.0, 1.0):
        print(
            f"threshold {threshold}: false alarms {int((clean > threshold).sum())} of {len(clean)}"
        )
        for name, belongs in groups.items():
            seen = [s > threshold for s, one in zip(best, made, strict=True)
                    if one.text and belongs(one)]  # fmt: skip
            print(f"    {name:28s} seen {sum(seen):5d} of {len(seen)}")
    text = np.array([s for s, one in zip(best, made, strict=True) if one.text])
    shares = (
        ("false alarms", float((clean > 0).mean()), f"{len(clean)} pictures"),
        ("lines of text seen", float((text > 0).mean()), f"{len(text)} pictures"),
    )
    fields = {"ratio": None, "goal": None, "met": None}
    record(
        [
            {"name": name, "value": 100 * share, "unit": "%", "compared_to": of, **fields}
            for name, share, of in shares
        ],
        "burned-in text",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["fit", "measure"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=3000, help="pictures, half of them with text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    if arguments.command == "fit":
        fit(samples(arguments.data, 0, arguments.count))
    else:
        measure(samples(arguments.data, 1, arguments.count))
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
