"""A model as a file: every tensor by its name, and no file written over."""

from pathlib import Path

import numpy as np
import pytest

from wardround.privacy.errors import MalformedData
from wardround.privacy.model import TensorLayout, flatten, initial_vector, save_model

LAYOUT = (TensorLayout("0.weight", (2, 3)), TensorLayout("0.bias", ()), TensorLayout("norm", (4,)))


def test_a_written_model_is_read_back_by_name_and_shape(tmp_path: Path) -> None:
    vector = initial_vector(LAYOUT, 7)
    save_model(tmp_path / "model.npz", LAYOUT, vector)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        tensors = {name: file[name] for name in file.files}
    assert {name: value.shape for name, value in tensors.items()} == {
        tensor.name: tensor.shape for tensor in LAYOUT
    }
    assert (flatten(LAYOUT, tensors) == vector).all()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        save_model(path, LAYOUT, initial_vector(LAYOUT, 7))
    assert path.read_bytes() == b"precious"


def test_a_vector_of_another_layout_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(MalformedData, match=r"must be float32 \[11\]"):
        save_model(tmp_path / "model.npz", LAYOUT, np.zeros(10, np.float32))
    assert not (tmp_path / "model.npz").exists()
