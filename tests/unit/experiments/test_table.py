"""The table of experiments as data."""

import re

import pytest

from experiments.table import (
    DOWNSTREAM_COLUMNS,
    WER_COLUMNS,
    find_row,
    format_wer,
    load_table,
)

EXPERIMENTS = load_table().values()
WAV2VEC2 = [row for row in EXPERIMENTS if row.group == "wav2vec2"]
BEST_RQ = [row for row in EXPERIMENTS if row.group != "wav2vec2"]


def test_every_row_of_the_publications_is_there():
    published = {row.name for row in BEST_RQ if row.published}
    mixers = {"pom", "relposmha", "ropemha", "summarymixing", "mamba", "hyperconformer"}
    mixers |= {"fastformer"}
    expected = {f"{size}-{mixer}" for size in ("base", "large") for mixer in mixers}
    assert published == expected | {"base-regularmha"}


def test_every_ablation_is_there():
    names = {row.name for row in EXPERIMENTS if row.group == "ablation"}
    orders = {f"ablation-pom-k{k}-d{d}" for k in (1, 2, 3, 4) for d in (1, 2, 3)}
    variants = {f"ablation-pom-{name}" for name in ("selective", "frequency2", "frequency3")}
    assert names == (orders - {"ablation-pom-k2-d2"}) | variants  # k = 2, D = 2 is base-pom


def test_rows_are_well_formed():
    for row in BEST_RQ:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", row.name)
        assert row.size == (
            "large" if row.options("pretraining").get("num_encoder_layers") else "base"
        )
        if row.published:
            assert row.published.keys() == {*WER_COLUMNS, "source"}
            assert row.published["clean"][0] < row.published["other"][0]
            assert row.published["clean_lm"][0] < row.published["clean"][0]
        is_older = row.published.get("source") == "arXiv 2409.02596"
        assert row.pretraining == ({"lr": 0.0008, "weight_decay": 0.01} if is_older else {})
        assert "lr" not in row.options("finetuning")


def test_wav2vec2_has_a_row_for_every_mixer():
    base = {row.name.partition("-")[2] for row in EXPERIMENTS if row.group == "base"}
    assert {row.name.partition("-")[2] for row in WAV2VEC2} == base
    published = {row.name for row in WAV2VEC2 if row.published}
    assert published == {"wav2vec2-summarymixing", "wav2vec2-regularmha"}
    for row in WAV2VEC2:
        assert row.files["pretraining"] == "hparams/wav2vec2.yaml"
        assert row.num_processes == 4
        if row.published:
            assert row.published.keys() == {*DOWNSTREAM_COLUMNS, "source"}


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("base-pam", "base-pom"),
        ("large-mambo", "large-mamba"),
        ("ablation-k3-d2", "ablation-pom-k3-d2"),
    ],
)
def test_an_unknown_name_gets_the_closest(name, closest):
    message = re.escape(f"unknown experiment '{name}': did you mean {closest}?")
    with pytest.raises(ValueError, match=message):
        find_row(name)


def test_figures():
    assert format_wer([5.5, 0.28]) == "5.50 ±0.28"
    assert format_wer([7.61]) == "7.61"
