"""Fit and measure the detector of burned-in text on real slices with and without rendered text.

    python benchmarks/burned_in_text.py fit DATA       writes the detector's weights, thresholds
    python benchmarks/burned_in_text.py measure DATA   prints false alarms and misses

DATA holds mednist/, hippocampus/ and dicom/. Weights come from the part `fit` of the real pictures,
thresholds from the part `choose`, figures from the part `report` (see real_slices.py) and from
DICOM files that are in no part. Text is invented: names, dates and numbers, 8 to 48 pixels high,
at any place, bright or dark, upright or turned, on slices at their own size or enlarged to 1024
pixels, with noise, inverted, or after JPEG. `fit` and `choose` write it in the fonts of this
machine, `report` in others as well: those of Matplotlib and of Pillow.
"""

import argparse
import io
import itertools
import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from real_slices import Part, pictures, volumes
from results import record

from wardround.datasets.deidentify import burned
from wardround.datasets.deidentify.frames import grey_planes

Picture = NDArray[np.float64]
Box = tuple[int, int, int, int]

FONTS = sorted(
    str(path)
    for path in Path("/usr/share/fonts/truetype").rglob("*.ttf")
    if "Math" not in path.name
)
_MATPLOTLIB = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
OTHER_FONTS = ["", *(str(path) for path in sorted(_MATPLOTLIB.glob("*.ttf"))
                     if path.stem in ("STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10"))
              ]  # fmt: skip
SIDES = (128, 192, 256, 320, 512, 512, 512, 768, 1024)
SIZES = (8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28, 32, 40, 48)
NAMES = ("DOE", "JANE", "SMITH", "MARY", "HOSPITAL", "MÜLLER", "Garcia", "Nguyen", "Lopez",
         "Anderson", "Schmidt", "O'Neil", "Kowalski", "Chen", "Okafor", "Ivanova")  # fmt: skip
HIDDEN = 12
FIT, CHOOSE = 4000, 2500  # pictures made, half of them with text
# At most this share of pictures without text may raise an alarm where the thresholds are chosen.
ALARMS = 0.005


@dataclass(frozen=True)
class Sample:
    """One picture's chains: row 0 is 1 for text, 0 for none, 2 for partly; then the measures."""

    text: str
    size: int
    shape: tuple[int, int]
    chains: NDArray[np.float32]


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


def burn(rng: random.Random, picture: Picture, fonts: list[str]) -> tuple[Picture, Box, str, int]:
    """Write one line of text into a copy of `picture`."""
    high, wide = picture.shape
    size = rng.choice([s for s in SIZES if s <= high / 5] or [8])
    name = rng.choice(fonts)
    font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
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


def sample(task: tuple[int, list[Path], list[str]]) -> Sample:
    """Make picture number `seed` (odd ones carry text) and measure its chains."""
    seed, sources, fonts = task
    rng = random.Random(seed)  # noqa: S311  # pictures, no secrets
    picture, box, text, size = background(rng, sources), None, "", 0
    if seed % 2:
        picture, box, text, size = burn(rng, picture, fonts)
    if rng.random() < 0.25:
        packed = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(packed, "JPEG", quality=rng.choice([60, 85]))
        picture = np.asarray(Image.open(packed), np.float64)
    plane = np.rint(picture).astype(np.float32) * (-1 if rng.random() < 0.15 else 1)
    return Sample(text, size, picture.shape, chains(plane, box))


def native(path: Path) -> Sample:
    """Measure the chains of a picture as it is, of a volume in its middle slices."""
    if path.suffix == ".jpeg":
        planes = [np.asarray(Image.open(path).convert("L"), np.float32)]
    else:
        volume = np.asarray(nibabel.load(path).dataobj, np.float32)
        planes = [np.take(volume, volume.shape[axis] // 2, axis) for axis in range(3)]
    return Sample("", 0, planes[0].shape, np.concatenate([chains(plane) for plane in planes]))


def chains(plane: NDArray[np.float32], box: Box | None = None) -> NDArray[np.float32]:
    """Return a row for each chain: text or not, and its measures."""
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
    return np.array(rows, np.float32).reshape(-1, 1 + len(burned.MEASURES))


def samples(data: Path, which: Part, count: int, pool: Pool) -> list[Sample]:
    """Return `count` made pictures of one part, every other with text."""
    sources = pictures(data, which) + volumes(data, which) * 12
    fonts = FONTS + OTHER_FONTS if which == "report" else FONTS
    first = {"fit": 0, "choose": 10**6, "report": 2 * 10**6}[which]
    tasks = [(first + number, sources, fonts) for number in range(count)]
    return pool.map(sample, tasks, chunksize=16)


def fit(made: list[Sample]) -> list[NDArray[np.float32]]:
    """Fit the network of `burned.odds` and return the rows of its file, but for the thresholds."""
    torch.manual_seed(0)
    rows = np.concatenate([one.chains for one in made])
    rows = rows[rows[:, 0] != 2]
    means, scales = rows[:, 1:].mean(axis=0), rows[:, 1:].std(axis=0) + 1e-6
    inputs = torch.tensor(np.clip((rows[:, 1:] - means) / scales, -4, 4))
    targets = torch.tensor(rows[:, 0])
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
    print(f"{len(rows)} chains, loss {loss.item():.4f}")
    state = [value.detach().numpy() for value in net.parameters()]
    return [means, scales, *state[0], state[1], state[2][0], state[3]]


def choose(made: list[Sample], as_they_are: list[Sample]) -> NDArray[np.float64]:
    """Return the three thresholds that see most text, with few alarms in made and in real ones."""
    groups = (most_odds(made), most_odds(as_they_are))
    text = np.array([bool(one.text) for one in made])
    clean = (groups[0][~text], groups[1])
    tries = [np.quantile(np.concatenate(clean)[:, number], np.linspace(0.98, 1, 41)) + 1e-3
             for number in range(3)]  # fmt: skip
    best = (-1, np.zeros(3))
    for sure in itertools.product(*tries):
        if max(float((odds > sure).any(axis=1).mean()) for odds in clean) <= ALARMS:
            best = max(best, (int((groups[0][text] > sure).any(axis=1).sum()), sure), key=first)
    print(f"thresholds {best[1]}: {best[0]} of {int(text.sum())} texts seen")
    return np.array(best[1])


def first(pair: tuple[int, object]) -> int:
    return pair[0]


def most_odds(made: list[Sample]) -> NDArray[np.float64]:
    """Return for each picture the highest odds among its lines of four, five and more shapes."""
    found = np.full((len(made), 3), -99.0)
    for place, one in enumerate(made):
        for row in one.chains[:, 1:]:
            number = burned.group(row)
            found[place, number] = max(found[place, number], burned.odds(row))
    return found


def write(rows: list[NDArray[np.float32]], sure: NDArray[np.float64]) -> None:
    header = (
        "# Made by benchmarks/burned_in_text.py: means, scales, layer 1, its bias, layer 2, bias, "
        "thresholds"
    )
    lines = [" ".join(f"{number:.4g}" for number in row) for row in [*rows, sure]]
    Path(burned.__file__).with_name("burned_weights.txt").write_text(
        "\n".join([header, *lines]) + "\n", "ascii"
    )
    burned.network.cache_clear()


HEIGHTS = ((8, 9), (10, 11), (12, 14), (16, 24), (28, 48))
SIDE_GROUPS = ((0, 99), (100, 199), (200, 399), (400, 4096))


def measure(data: Path, count: int, pool: Pool) -> None:
    """Print how many real and made pictures without text raise an alarm, and what is seen."""
    made = samples(data, "report", count, pool)
    seen = dict(zip(map(id, made), alarms(made), strict=True))
    clean = [one for one in made if not one.text]
    text = [one for one in made if one.text]
    print("false alarms")
    print(f"    made pictures without text: {sum(seen[id(one)] for one in clean)} of {len(clean)}")
    real = Counter[str]()
    total = Counter[str]()
    paths = pictures(data, "report") + volumes(data, "report")
    for path, alarm in zip(paths, alarms(pool.map(native, paths, chunksize=32)), strict=True):
        kind = path.parent.name if path.suffix == ".jpeg" else "hippocampus"
        total[kind] += 1
        real[kind] += alarm
    for kind in total:
        print(f"    {kind}, as they are: {real[kind]} of {total[kind]}")
    for path in sorted((data / "dicom").rglob("*.dcm")):
        if any(burned.shows_text(plane) for plane in grey_planes(dcmread(path))):
            print(f"    alarm in {path.name}")
    print("lines of text seen, by font size (down) and lesser side of the picture (across)")
    print("      " + "".join(f"{f'{low} to {high}':>18s}" for low, high in SIDE_GROUPS))
    for low, high in HEIGHTS:
        cells = [
            [seen[id(one)] for one in text
             if low <= one.size <= high and least <= min(one.shape) <= most]
            for least, most in SIDE_GROUPS
        ]  # fmt: skip
        shares = "".join(f"{f'{sum(cell)} of {len(cell)}':>18s}" for cell in cells)
        print(f"{low:2d}-{high:2d} {shares}")
    shares = (
        ("false alarms, made pictures", sum(seen[id(one)] for one in clean), len(clean)),
        ("false alarms, real pictures", real.total(), total.total()),
        ("lines of text seen", sum(seen[id(one)] for one in text), len(text)),
        *(
            (
                f"lines seen, sides of {least} to {most}",
                sum(seen[id(o)] for o in of),
                len(of),
            )
            for least, most in SIDE_GROUPS
            if (of := [one for one in text if least <= min(one.shape) <= most])
        ),
    )
    fields = {"ratio": None, "goal": None, "met": None}
    record(
        [
            {"name": name, "value": 100 * part / whole, "unit": "%", **fields,
             "compared_to": f"{whole} pictures"}
            for name, part, whole in shares
        ],
        "burned-in text",
    )  # fmt: skip


def alarms(made: list[Sample]) -> list[bool]:
    """Tell for each picture whether the detector sees text in it."""
    return [any(burned.evidence(row) > 0 for row in one.chains[:, 1:]) for one in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["fit", "measure"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=3000, help="pictures to measure on")
    arguments = parser.parse_args()
    data = arguments.data
    torch.set_num_threads(1)
    begun = time.monotonic()
    with multiprocessing.Pool() as pool:
        if arguments.command == "fit":
            rows = fit(samples(data, "fit", FIT, pool))
            write(rows, np.zeros(3))
            as_they_are = pool.map(native, pictures(data, "choose") + volumes(data, "choose"))
            write(rows, choose(samples(data, "choose", CHOOSE, pool), as_they_are))
        else:
            measure(data, arguments.count, pool)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
