"""A model as a flat vector: the layout of its tensors, its first weights, its digest.

The coordinator has no deep-learning library; it knows a model as names, shapes and one float32
vector in the order of the layout.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.errors import MalformedData

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Name and shape of one float32 tensor. An empty shape is a single number."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers the tensor holds."""
        return prod(self.shape)


def dimension(layout: Sequence[TensorLayout]) -> int:
    """Return how many numbers all tensors of `layout` hold together."""
    return sum(tensor.size for tensor in layout)


def flatten(layout: Sequence[TensorLayout], tensors: Mapping[str, NDArray[np.float32]]) -> Vector:
    """Return the tensors as one float32 vector [D] in the order of `layout`.

    Raises MalformedData when names, shapes or types differ from the layout.
    """
    if set(tensors) != {tensor.name for tensor in layout}:
        raise MalformedData("the model's tensors are not those of the plan's layout")
    vector = np.empty(dimension(layout), dtype=np.float32)
    start = 0
    for tensor in layout:
        value = tensors[tensor.name]
        if value.shape != tensor.shape or value.dtype != np.float32:
            raise MalformedData(
                f"tensor {tensor.name} is {value.dtype} {value.shape}; the plan says "
                f"float32 {tensor.shape}"
            )
        vector[start : start + tensor.size] = value.reshape(-1)
        start += tensor.size
    return vector


def unflatten(layout: Sequence[TensorLayout], vector: Vector) -> dict[str, NDArray[np.float32]]:
    """Return views of `vector` [D] as the named tensors of `layout`; the inverse of `flatten`."""
    if vector.shape != (dimension(layout),) or vector.dtype != np.float32:
        raise MalformedData(f"a model vector must be float32 [{dimension(layout)}]")
    result: dict[str, NDArray[np.float32]] = {}
    start = 0
    for tensor in layout:
        result[tensor.name] = vector[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return result


def save_model(path: Path, layout: Sequence[TensorLayout], vector: Vector) -> None:
    """Write a model [D] to a new file: one float32 array a tensor, by name (NumPy .npz).

    Raises FileExistsError rather than write over a file.
    """
    tensors = unflatten(layout, vector)
    with path.open("xb") as file:
        np.savez(file, allow_pickle=False, **tensors)


def model_digest(vector: Vector) -> str:
    """Return the SHA-256 (hex) of the little-endian float32 bytes of a model vector."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").data).hexdigest()


def initial_vector(layout: Sequence[TensorLayout], seed: int) -> Vector:
    """Return the first weights of a study [D]: a function of the plan that anyone can redo.

    Tensors of two or more axes: uniform within +-sqrt(3 / fan_in) (He et al., ICCV 2015, with
    unit gain for the GroupNorm that follows); one-axis tensors named `weight` (norms): one;
    every other: zero. The generator is Philox, whose stream NumPy promises to keep; these
    numbers are public, so it need not be a cryptographic one.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    parts = []
    for tensor in layout:
        if len(tensor.shape) >= 2:
            bound = np.sqrt(3.0 / max(1, prod(tensor.shape[1:])))
            uniform = generator.random(tensor.size, dtype=np.float32)
            parts.append(((2.0 * uniform - 1.0) * np.float32(bound)).astype(np.float32))
        else:
            fill = 1.0 if tensor.name.rsplit(".", 1)[-1] == "weight" else 0.0
            parts.append(np.full(tensor.size, fill, dtype=np.float32))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
