"""A site's own model in group mode: which sums it takes, and what its file must be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.privacy.test_optimiser import ADAM, LOCAL, SIZE, vectors

from wardround.client.replica import Replica, load_replica, save_replica
from wardround.privacy.errors import AggregateRejected, KeyFileError, MalformedData
from wardround.privacy.optimiser import Optimiser
from wardround.privacy.plan import StudyPlan
from wardround.privacy.secagg.messages import Opening, SurvivorSet, SurvivorSignature, Task
from wardround.privacy.secagg.quantization import Aggregate

SITES = ("north", "south", "west")


def opening(number: int, model: str, attempt: int = 1) -> Opening:
    """What comes with the sum of a round; signatures are not for a replica to check."""
    task = Task(bytes(32), bytes(32), number, attempt, SITES, bytes.fromhex(model))
    survivors = SurvivorSet(task.context, SITES, (bytes(32),) * 3)
    signatures = (SurvivorSignature(task.context, "north", bytes(32)),)
    return Opening(task, survivors, signatures, bytes([number, attempt]) * 16)


def walked(plan: StudyPlan, rounds: int) -> Replica:
    """A replica some rounds on; the last sum has no weight."""
    replica = Replica.first(plan)
    for number, mean in enumerate(vectors(1, rounds), start=1):
        weight = 30 if number < rounds else 0
        total = Aggregate(mean, weight, {"evaluated": number}, SITES, "")
        replica = replica.after(plan, opening(number, replica.digest), total)
    return replica


@pytest.mark.parametrize("plan", [LOCAL, ADAM], ids=["local", "adam"])
def test_the_steps_are_those_of_the_plans_optimiser(plan: StudyPlan) -> None:
    replica, optimiser = walked(plan, 4), Optimiser(plan)
    expected = Replica.first(plan).vector
    for mean in vectors(1, 4)[:-1]:  # a sum without weight moves nothing
        expected = optimiser.move(expected, mean)
    assert (replica.vector == expected).all()
    assert replica.optimiser == optimiser.save()
    assert [step.round for step in replica.steps] == [1, 2, 3, 4]
    assert replica.steps[-1].model_digest == replica.steps[-2].model_digest == replica.digest


@pytest.mark.parametrize("plan", [LOCAL, ADAM], ids=["local", "adam"])
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_replica_comes_back_from_its_private_file(
    tmp_path: Path, plan: StudyPlan, rounds: int
) -> None:
    folder = tmp_path / "models"
    replica = walked(plan, rounds)
    save_replica(folder, "shapes-1", Replica.first(plan))
    save_replica(folder, "shapes-1", replica)
    found = load_replica(folder, "shapes-1")
    assert found is not None
    assert (found.vector == replica.vector).all()
    assert replace(found, vector=replica.vector) == replica
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert load_replica(folder, "shapes-2") is None


def test_a_file_that_others_can_read_or_that_was_changed_is_refused(tmp_path: Path) -> None:
    replica = walked(LOCAL, 2)
    save_replica(tmp_path, "shapes-1", replica)
    path = tmp_path / "shapes-1.replica"
    path.chmod(0o640)
    with pytest.raises(KeyFileError):
        load_replica(tmp_path, "shapes-1")
    path.chmod(0o600)
    whole = path.read_bytes()
    vector = replica.vector.tobytes()
    assert whole.count(vector) == 1
    for damaged in (b"", whole[:-30], whole.replace(vector, vector[::-1])):
        path.write_bytes(damaged)
        with pytest.raises(MalformedData, match="the model of run shapes-1 is damaged"):
            load_replica(tmp_path, "shapes-1")
    save_replica(tmp_path, "shapes-1", replace(replica, vector=np.zeros(SIZE, np.float32)))
    with pytest.raises(MalformedData, match="damaged"):
        load_replica(tmp_path, "shapes-1")


def test_the_same_sum_again_gives_the_step_that_was_taken() -> None:
    replica = walked(LOCAL, 3)
    first = Replica.first(LOCAL).digest
    assert replica.check(opening(1, first)) == replica.steps[0]
    assert replica.check(opening(2, replica.steps[0].model_digest)) == replica.steps[1]


def test_another_sum_of_a_round_that_was_read_is_refused() -> None:
    first = Replica.first(LOCAL).digest
    with pytest.raises(AggregateRejected, match="another sum of round 1 was read"):
        walked(LOCAL, 3).check(opening(1, first, attempt=2))
    with pytest.raises(AggregateRejected, match="another sum of round 1 was read"):
        walked(LOCAL, 3).check(replace(opening(1, first), vector=bytes(32)))


def test_a_sum_is_read_in_its_turn_alone() -> None:
    replica = walked(LOCAL, 2)
    assert replica.check(opening(3, replica.digest)) is None
    with pytest.raises(AggregateRejected, match="after round 2; a sum of round 4 cannot follow"):
        replica.check(opening(4, replica.digest))


def test_a_sum_of_updates_to_another_model_is_refused() -> None:
    with pytest.raises(AggregateRejected, match="updates to another model"):
        walked(LOCAL, 2).check(opening(3, Replica.first(LOCAL).digest))


def test_the_model_is_not_in_a_replicas_repr() -> None:
    assert "vector" not in repr(walked(ADAM, 2))
