"""The notebook of the demo runs from its first cell to its last, and is kept without outputs."""

import importlib.util
import json

import pytest

from tests.helpers import ROOT

NOTEBOOK = ROOT / "docs/tutorials/demo.ipynb"
MISSING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    programs = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(programs) > 5
    for cell in programs:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason="needs the extra [notebook]")
def test_it_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "WER" in printed
    assert "frames: (" in printed
    assert "transcript: " in printed
