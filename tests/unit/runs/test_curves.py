"""The picture of a run's curves: which panels, what is in them, how it is written."""

import itertools
import math

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.objectives.bestrq import BestRQ
from speechbrain_pom.objectives.pretraining import pretraining_metrics
from speechbrain_pom.runs.curves import draw_curves

BESTRQ = pretraining_metrics(BestRQ)
PRETRAINING = [
    {
        "epoch": epoch,
        "steps": 20 * epoch,
        "lr": 1e-4 * epoch,
        "train": {"loss": 9.0 / epoch, "grad_norm": 2.0, "audio_s_per_s": 250.0},
        "valid": {
            "loss": 9.1 / epoch,
            "accuracy": 0.02 * epoch,
            "top_code_share": 0.05,
            "code_perplexity": 300.0,
            "codes_in_use": 1000,
        },
    }
    for epoch in range(1, 8)
]
FINE_TUNING = [
    {
        "epoch": epoch,
        "lr_encoder": 5e-5,
        "lr_head": 3e-4,
        "train": {"loss": 3.0 / epoch},
        "valid": {"loss": 3.2 / epoch, "wer": 90.0 / epoch, "cer": 50.0 / epoch},
    }
    for epoch in range(1, 4)
]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as objects."""
    saved = []
    savefig = Figure.savefig

    def keep(figure, *args, **kwargs):
        saved.append(figure)
        return savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def panels_of(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def test_panels_of_pretraining(tmp_path, figures):
    draw_curves(PRETRAINING, BESTRQ, tmp_path / "curves.png")
    panels = panels_of(figures[0])
    assert list(panels) == [
        "Loss",
        "Masked prediction",
        "Codes, validation",
        "Learning rate",
        "Gradient norm, training",
        "Throughput, all processes, training",
    ]
    assert {axes.get_xlabel() for axes in panels.values()} == {"epoch"}
    assert panels["Throughput, all processes, training"].get_ylabel() == "s of audio per second"
    shares = {
        line.get_label(): list(line.get_ydata()) for line in panels["Masked prediction"].lines
    }
    assert shares["masked accuracy, valid"] == pytest.approx([2.0 * epoch for epoch in range(1, 8)])
    assert shares["commonest code, valid"] == pytest.approx([5.0] * 7)
    assert panels["Masked prediction"].get_ylim()[0] == 0
    assert panels["Learning rate"].get_yscale() == "log"


@pytest.mark.parametrize(
    ("history", "task"),
    [
        (PRETRAINING, BESTRQ),
        (FINE_TUNING, CTC_METRICS),
        ([{"epoch": 1, "lr": 0.00012345}], BESTRQ),
    ],
)
def test_no_label_is_cut_or_over_another_panel(tmp_path, figures, history, task):
    draw_curves(history, task, tmp_path / "curves.png")
    (figure,) = figures
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(figure.bbox.count_contains(box.corners()) == 4 for box in boxes)
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


def test_panels_of_fine_tuning(tmp_path, figures):
    draw_curves(FINE_TUNING, CTC_METRICS, tmp_path / "curves.png")
    panels = panels_of(figures[0])
    assert list(panels) == ["Loss", "Error rates, greedy, validation", "Learning rate"]
    labels = [text.get_text() for text in panels["Learning rate"].get_legend().get_texts()]
    assert labels == ["encoder", "head"]


def test_picture_is_1200_pixels_wide(tmp_path):
    runs = ((PRETRAINING, BESTRQ), (FINE_TUNING, CTC_METRICS), (FINE_TUNING[:1], CTC_METRICS))
    for history, task in runs:
        draw_curves(history, task, tmp_path / "curves.png")
        assert imread(tmp_path / "curves.png").shape[1] == 1200
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_values_that_are_not_finite_are_named(tmp_path, figures):
    history = [
        {"epoch": epoch, "lr": lr, "train": {"loss": loss}}
        for epoch, loss, lr in (
            (1, 8.0, 0.0),
            (2, math.nan, 0.1),
            (3, math.inf, 0.2),
            (4, 7.0, 0.3),
        )
    ]
    draw_curves(history, BESTRQ, tmp_path / "curves.png")
    panels = panels_of(figures[0])
    assert panels["Loss"].texts[0].get_text() == "train not finite at epoch 2, 3"
    assert panels["Learning rate"].get_yscale() == "linear"


def test_a_run_that_is_all_nan_is_still_drawn(tmp_path, figures):
    draw_curves(
        [{"epoch": e, "train": {"loss": math.nan}} for e in range(1, 9)], BESTRQ, tmp_path / "c.png"
    )
    text = figures[0].axes[0].texts[0].get_text()
    assert text == "train not finite at epoch 1, 2, 3, 4, 5, ..."


def test_a_new_figure_may_begin_late(tmp_path, figures):
    history = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.1, "valid": {"loss": 3.0}}]
    draw_curves(history, BESTRQ, tmp_path / "curves.png")
    assert list(panels_of(figures[0])["Loss"].lines[0].get_xdata()) == [2]


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw: the history has none of the metrics"):
        draw_curves([{"epoch": 1}], BESTRQ, tmp_path / "curves.png")


def test_no_figure_is_left_in_pyplot(tmp_path):
    from matplotlib import pyplot

    draw_curves(FINE_TUNING, CTC_METRICS, tmp_path / "curves.png")
    assert pyplot.get_fignums() == []
