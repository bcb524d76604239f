"""The notebook that comes with ddcal, run in a kernel of its own from its first cell to its last."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "studies" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()
    shown = [cell["outputs"][-1] for cell in notebook.cells if cell.get("outputs")]
    pages = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert len(pages) == 4  # the study, its trials, its winner, the distilled images
    assert sum("data:image/png;base64," in page for page in pages) == 3
    lines = [output["data"]["text/plain"] for output in everything(notebook, "display_data")]
    assert lines == ["100 %  evaluate"]  # one line, written anew
    assert "about 0 s on cpu" in "".join(output["text"] for output in everything(notebook, "stream"))


def everything(notebook, kind):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output for output in outputs if output["output_type"] == kind]
