"""The notebooks run as they are, in a kernel of their own."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda n: n.stem)
def test_a_notebook_runs(notebook, tmp_path):
    for file in NOTEBOOKS.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    cells = nbformat.read(notebook, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(cells, timeout=600, kernel_name="python3", resources=place).execute()
    assert (tmp_path / cells.metadata["writes"]).stat().st_size > 10_000


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda n: n.stem)
def test_a_notebook_is_stored_without_outputs(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs")]
