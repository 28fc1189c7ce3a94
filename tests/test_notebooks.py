"""The notebooks run in a kernel of their own, every cell as it is but for the amounts."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# The least amounts that run every cell, in the place of those that a reader waits for.
SMALLER = {
    "prune-in-five-minutes": {
        "num_prompts=4": "num_prompts=1",
        '"num_inference_steps": 10': '"num_inference_steps": 2',
        "num_inference_steps=10": "num_inference_steps=2",
    },
    "sdxl-on-your-gpu": {
        '"num_prompts": 2': '"num_prompts": 1',
        '"rounds": 1': '"rounds": 0',
    },
}


def made_smaller(cells: list, amounts: dict[str, str]) -> None:
    """Replace amounts in cells of code; each must be there."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    for amount, less in amounts.items():
        assert any(amount in cell.source for cell in code), f"no cell has {amount}"
        for cell in code:
            cell.source = cell.source.replace(amount, less)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda n: n.stem)
def test_a_notebook_runs(notebook, tmp_path):
    for file in NOTEBOOKS.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    cells = nbformat.read(notebook, as_version=4)
    made_smaller(cells.cells, SMALLER[notebook.stem])
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(cells, timeout=600, kernel_name="python3", resources=place).execute()
    assert (tmp_path / cells.metadata["writes"]).stat().st_size > 10_000


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda n: n.stem)
def test_a_notebook_is_stored_without_outputs(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs")]
