"""The reference figures: who is in which part, and that nothing chooses with test data."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, imported as it imports its own parts when it is run."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import reference

    return reference


@pytest.fixture
def tiny(reference: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Heart disease with one short way, on invented data; test data cannot be had."""
    parts = sys.modules["reference_data"]
    draw = torch.Generator().manual_seed(1)

    def part() -> object:
        inputs = torch.randn(40, 13, generator=draw)
        return parts.Part(inputs, (inputs[:, 0] > 0).long())

    learning = parts.Learning({name: part() for name in "abc"}, {"all": part()})
    whole = reference.EXPERIMENTS["heart"]
    way = reference.Way(reference.Recipe(2, 2, "0.5", "sgd"), "federated", ("0.01", "1"))
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(reference, "learning", lambda name, seed: learning)
    monkeypatch.setattr(reference, "test_parts", lambda name, seed: pytest.fail("looked at"))
    return replace(whole, ways={"short": way}, epsilons=("8",))


def test_choosing_looks_at_no_test_data_and_takes_the_best_on_validation(
    reference: ModuleType, tiny: object
) -> None:
    lr = reference.chosen(tiny, "short", "8")
    means = {
        rate: np.mean([reference.Cell(tiny, "short", "8", rate, s).validation() for s in (0, 1, 2)])
        for rate in ("0.01", "1")
    }
    assert means[lr] == max(means.values())


def test_a_choice_once_made_stays(
    reference: ModuleType, tiny: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = reference.chosen(tiny, "short", "8")
    monkeypatch.setattr(reference.Cell, "validation", lambda cell: float(cell.lr != lr))
    assert reference.chosen(tiny, "short", "8") == lr


def test_only_the_chosen_models_meet_the_test_data(
    reference: ModuleType, tiny: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = reference.chosen(tiny, "short", "8")
    met = []
    models = reference.Cell.models
    validation = reference.learning("heart", 0).validation
    monkeypatch.setattr(reference, "test_parts", lambda name, seed: validation)
    monkeypatch.setattr(reference.Cell, "models", lambda c: met.append((c.lr, c.seed)) or models(c))
    first = reference.tested(tiny, "short", "8", lr)
    assert met == [(lr, 0), (lr, 1), (lr, 2)]
    assert reference.tested(tiny, "short", "8", lr) == first
    assert len(met) == 3


def test_another_protocol_has_other_cells(reference: ModuleType, tiny: object) -> None:
    way = tiny.ways["short"]
    wider = replace(tiny, ways={"short": replace(way, rates=("0.01", "0.1", "1"))})
    assert reference.Cell(tiny, "short", "8", "1", 0).path != (
        reference.Cell(wider, "short", "8", "1", 0).path
    )


def test_blocks_of_mednist_stay_whole_and_earlier_test_images_are_not_test(
    reference: ModuleType, shared_data: Path
) -> None:
    data = sys.modules["reference_data"]
    parts: dict[tuple[str, int], set[str]] = {}
    for row, part in zip(data._rows(), data._parts(), strict=True):
        key = row["label"], int(Path(row["path"]).stem) // 50
        parts.setdefault(key, set()).add(part)
        assert (row["split"], part) != ("test", "test")
    assert {len(found) for found in parts.values()} == {1}
    counts = {name: data._parts().count(name) for name in ("train", "validation", "test")}
    assert sum(counts.values()) == 9000
    assert min(counts.values()) >= 900


def test_hospitals_have_the_patients_that_the_benchmark_counts(
    reference: ModuleType, shared_data: Path
) -> None:
    data = sys.modules["reference_data"]
    sizes = {name: tuple(map(len, data._hospital(name, 0, False))) for name in data.HOSPITALS}
    # Train with validation, and test; FLamby rounds otherwise, see below.
    assert {name: (train + val, test) for name, (train, val, test) in sizes.items()} == {
        "cleveland": (200, 103),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (86, 44),
    }
    first, again, other = (data._hospital("va", split, False)[2].inputs for split in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_on_the_split_of_the_benchmark_seeds_differ_in_validation_alone(
    reference: ModuleType, shared_data: Path
) -> None:
    data = sys.modules["reference_data"]
    sizes = {}
    for name in data.HOSPITALS:
        train, validation, test = data._hospital(name, 0, True)
        sizes[name] = (len(train) + len(validation), len(test))
        _, other, same = data._hospital(name, 1, True)
        # The z-scores too are of train and validation together: equal to the last digits.
        assert torch.allclose(same.inputs.sum(0), test.inputs.sum(0), atol=1e-3)
        assert torch.equal(same.targets.sort()[0], test.targets.sort()[0])
        assert len(other) == len(validation) == round(sum(map(len, (train, validation))) / 5)
        assert not torch.equal(other.inputs, validation.inputs)
        # Each record is in one part.
        assert len({*data._flamby_test()[name]}) == len(test)
        if name == "switzerland":
            assert bool(train.targets.all() and validation.targets.all())
    # FLamby's own counts of train and test.
    assert sizes == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }


def test_a_table_goes_to_its_place_and_nowhere_else(reference: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table a -->\nold\n<!-- end -->\nbelow\n")
    score = reference.Score(0.9651, 0.0032, "2")
    made = reference.table({("short", "8"): score}, ("short", "long"), ("1", "8"))
    reference.put_table(page, "a", made)
    assert page.read_text().splitlines() == [
        "above",
        "<!-- table a -->",
        "| epsilon of each site | 1 | 8 |",
        "|---|---|---|",
        "| short |  | 96.5 ± 0.3 (2) |",
        "| long |  |  |",
        "<!-- end -->",
        "below",
    ]
    with pytest.raises(ValueError, match="no place for table b"):
        reference.put_table(page, "b", made)
