"""The notebook of the documents is what its script says, and its cells run."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parents[1] / "docs"
spec = importlib.util.spec_from_file_location("to_notebook", DOCS / "to_notebook.py")
to_notebook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(to_notebook)


def test_the_notebook_has_the_cells_of_its_script_and_what_they_gave():
    notebook = nbformat.read(to_notebook.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    wanted = list(to_notebook.cells(to_notebook.SOURCE.read_text(encoding="utf-8")))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == wanted
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.slow
def test_the_cells_run(tmp_path):
    """An error in one of them is raised."""
    notebook = to_notebook.executed(to_notebook.SOURCE.read_text(encoding="utf-8"), tmp_path)
    assert len(notebook.cells) > 10
