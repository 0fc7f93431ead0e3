"""The notebooks run from top to bottom, quickly, and are committed without outputs."""

import asyncio
import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "compare_explanations",
        "read_a_run",
        "train_and_look",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert path.stat().st_size < 20_000
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


# The client's own channels, not ours, are closed late.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(REPOSITORY), before))))
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    asyncio.run(client.async_execute())
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.data for output in outputs if "data" in output]
    html = [data["text/html"] for data in shown if "text/html" in data]
    if path.stem == "train_and_look":
        assert "Explanation of 4 images" in html[0]
        # What units add, and the bias, is the score.
        number = next(d["text/plain"] for d in shown if d["text/plain"].startswith("tensor"))
        assert float(number.removeprefix("tensor(").split(",")[0].rstrip(")")) < 1e-3
    elif path.stem == "read_a_run":
        assert "InterpretableCNN on SyntheticParts" in html[0]
        assert "Accuracy" in html[0]
        texts = "".join(output.text for output in outputs if output.output_type == "stream")
        assert "report.html" in texts
    else:
        texts = "".join(output.text for output in outputs if output.output_type == "stream")
        assert texts.count("of the relevance lies on the object") == 3
