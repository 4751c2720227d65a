"""A small federation in one process: real keys, log, ledgers and training, no network."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from deploy.local import LocalFederation

from wardround.client.tasks import build
from wardround.client.trainer import task_spec, tensor_layout
from wardround.datasets import phantom
from wardround.privacy.model import TensorLayout
from wardround.privacy.plan import (
    Evaluation,
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)

SITES = ("north", "south", "west")
CLASSES = ("clear", "nodule")
PATIENTS = 24


def make_plan(sites: tuple[str, ...] = SITES, *, rounds: int = 2, colluders: int = 1) -> StudyPlan:
    """A plan of a few cheap rounds for the phantoms of `make_images`."""
    threshold = (len(sites) + colluders) // 2 + 1

    def with_tensors(tensors: tuple[TensorLayout, ...]) -> StudyPlan:
        return StudyPlan(
            study=Study("findings", "Findings", "to test the whole way", "none: invented data"),
            task=Task("image-classification-2d", CLASSES, (1, 16, 16)),
            model=Model("convnet", 1, tensors, (("widths", (4, 4)),)),
            training=Training(rounds, "local_steps", 2, "adamw", Decimal("0.01")),
            privacy=Privacy(
                *("patient", "add-remove", Decimal(1), Decimal(2), Decimal("0.5")),
                *(Decimal(8), Decimal("1e-4"), 2),
            ),
            secure_aggregation=SecureAggregation(
                *(threshold, colluders, max(3, threshold), 1000, Decimal("0.5"))
            ),
            participants=Participants(sites),
            evaluation=Evaluation(3),
        )

    return with_tensors(tensor_layout(build(task_spec(with_tensors((TensorLayout("any", (1,)),))))))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Each site's folder of invented images, made once."""
    folder = tmp_path_factory.mktemp("images")

    def of(number: int) -> Path:
        path = folder / str(number)
        if not path.exists():
            phantom.images(
                path, seed=number, patients=PATIENTS, classes=CLASSES, size=16, scanner=0
            )
        return path

    return of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two tests run side by side on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def federation(tmp_path: Path, images: Callable[[int], Path]) -> Iterator[LocalFederation]:
    """Three sites that have joined; each step of an exchange may take two seconds."""
    data = {site: images(number) for number, site in enumerate(SITES)}
    with LocalFederation(tmp_path, data, epsilon=8.0, deadline=2) as made:
        yield made
