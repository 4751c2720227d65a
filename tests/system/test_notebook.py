"""The first study's notebook runs from its first cell to its last, and says what it did."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPOSITORY

nbformat = pytest.importorskip("nbformat", reason="needs wardround[notebooks]")
with warnings.catch_warnings():
    # What jupyter's own packages warn about when they are imported is not ours to mend.
    warnings.simplefilter("ignore")
    nbclient = pytest.importorskip("nbclient", reason="needs wardround[notebooks]")
    pytest.importorskip("ipykernel", reason="needs wardround[notebooks]")

NOTEBOOK = REPOSITORY / "notebooks" / "first_study.ipynb"
WAYS = ("together (federated)", "pooled", "north alone", "south alone", "west alone")
FIGURES = re.compile(r"^(\w[\w ()]+?) {2,}(0\.\d{3}) +(0\.\d{3})$", re.MULTILINE)


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def text(notebook: Any) -> str:
    """Everything the cells wrote."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert not [out for out in outputs if out.get("name") == "stderr"], outputs
    return "\n".join(out["text"] for out in outputs if out.output_type == "stream")


def figures(notebook: Any) -> dict[str, tuple[float, float]]:
    """Accuracy of each way to train: not private, private."""
    found = FIGURES.findall(text(notebook))
    return {way: (float(plain), float(private)) for way, plain, private in found}


def test_outputs_are_those_of_one_execution() -> None:
    notebook = read()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert tuple(figures(notebook)) == WAYS
    assert "/tmp" not in NOTEBOOK.read_text()  # noqa: S108  # no folder of the machine it ran on
    assert str(Path.home()) not in NOTEBOOK.read_text()


def test_it_runs_and_compares_every_way_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = read()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with warnings.catch_warnings():
        # jupyter_client and pyzmq warn of each other's and of asyncio's changes.
        warnings.simplefilter("ignore")
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        ).execute()
    told = text(notebook)
    assert "completed" in told
    epsilon = re.search(r"epsilon of the whole study: ([\d.]+) at delta", told)
    assert epsilon is not None
    assert 0 < float(epsilon[1]) <= 8
    accuracy = figures(notebook)
    assert tuple(accuracy) == WAYS
    # North sees hardly an ill patient: alone, even without noise, it learns less than all together.
    assert accuracy["together (federated)"][1] > accuracy["north alone"][0]
    assert min(accuracy["together (federated)"]) > 0.7
