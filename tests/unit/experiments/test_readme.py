"""The tables of the README, from the experiments and the records."""

import pytest

from experiments.readme import BEGIN, END, render_tables, update_readme
from experiments.records import build_record
from experiments.table import find_row, load_table


def cells_of(text, name):
    """The cells of the row of an experiment."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_records_our_cells_are_empty():
    text = render_tables([])
    for experiment in load_table().values():
        cells = cells_of(text, experiment.name)
        assert cells[4] == f"{experiment.parameters[1]:,}"
        assert set(cells[6::2]) == {""}
    light = cells_of(text, "wav2vec2-regularmha")
    assert light[5::2] == ["–", "–", "–", "–", "50.80", "78.10"]  # noqa: RUF001
    assert cells_of(text, "base-mamba")[5::2] == ["7.61", "5.50 ±0.28", "19.97", "15.37"]
    assert "None yet" in text


def test_records_fill_the_cells_of_their_row(finished_runs):
    experiment = find_row("base-ropemha")
    first = {**build_record(experiment, finished_runs(experiment)), "hardware": "2 x A100"}
    second = {**first, "seed": "7", "results": {"test-clean": first["results"]["test-clean"]}}
    text = render_tables([first, second])
    assert cells_of(text, "base-ropemha")[6::2] == [
        "9.00 ±0.25, 9.00 ±0.25",
        "4.50 ±0.25, 4.50 ±0.25",
        "20.00 ±0.25",
        "10.00 ±0.25",
    ]
    assert cells_of(text, "base-pom")[6::2] == [""] * 4
    assert "base-ropemha, seed 7: commit abc1234; 1.5 + 1.5 hours; 2 x A100, 2 processes" in text
    commands = (first[stage]["command"] for stage in ("pretraining", "finetuning"))
    assert "```bash\n" + "\n".join(commands) + "\n```" in text
    assert "None yet" not in text


def test_update(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    assert not update_readme([], path, check=True)
    assert "old" in path.read_text()
    assert not update_readme([], path)
    text = path.read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n\n### Base")
    assert text.endswith(f"{END}\n\nafter\n")
    assert update_readme([], path)
    assert update_readme([], path, check=True)
    assert path.read_text() == text


def test_a_readme_without_markers_is_refused(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("text\n")
    with pytest.raises(ValueError, match=r"has no lines .<!-- EXPERIMENTS: .* to write between"):
        update_readme([], path)
