"""Makes docs/notebook.ipynb of docs/notebook.py, with what its cells give.

    python docs/to_notebook.py

A cell begins at a line `# %%`, or `# %% [markdown]`, and then its lines are comments. Needs the extra `dev`.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, NOTEBOOK = HERE / "notebook.py", HERE / "notebook.ipynb"


def cells(text):
    """[("markdown" or "code", text)] of a script."""
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        kind, _, body = part.partition("\n")
        if kind.strip() == "[markdown]":
            yield "markdown", re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
        else:
            yield "code", body.strip()


def executed(text, folder):
    """The notebook of a script, its cells run in `folder`; an error in one of them is raised."""
    import nbformat
    from nbclient import NotebookClient

    new = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    made = [new[kind](body, id=f"cell-{i}") for i, (kind, body) in enumerate(cells(text))]
    notebook = nbformat.v4.new_notebook(cells=made)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # the times at which it ran
    return notebook


if __name__ == "__main__":
    import nbformat

    nbformat.write(executed(SOURCE.read_text(encoding="utf-8"), HERE), NOTEBOOK)
