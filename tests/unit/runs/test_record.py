"""The record of a run: run.json, and the three files that version 0.1 had in its place."""

import json

import pytest

from speechbrain_pom.runs.legacy import OLD_FILES
from speechbrain_pom.runs.record import (
    RUN_FILE,
    check_fingerprint,
    finished_configuration,
    read_fingerprint,
    read_run,
    record_fingerprint,
    record_run,
)
from speechbrain_pom.utils.errors import UserError

FIRST, SECOND = "a1" * 32, "b2" * 32


def test_entries_are_set_one_by_one_and_kept(tmp_path):
    assert read_run(tmp_path) == {}
    record_run(tmp_path, configuration={"seed": "1"})
    record_run(tmp_path, metrics=[{"name": "loss"}])
    record_run(tmp_path, configuration={"seed": "2"})
    assert read_run(tmp_path) == {"configuration": {"seed": "2"}, "metrics": [{"name": "loss"}]}
    assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]


def test_what_is_recorded_already_is_not_written_again(tmp_path):
    record_run(tmp_path, metrics=[1])
    before = (tmp_path / RUN_FILE).stat()
    record_run(tmp_path, metrics=[1])
    assert (tmp_path / RUN_FILE).stat() == before


def test_a_damaged_record_is_refused_and_not_replaced(tmp_path):
    (tmp_path / RUN_FILE).write_text('{"configuration": ')
    with pytest.raises(UserError, match=r"run\.json' cannot be read \(.*\): restore it, or choose"):
        record_run(tmp_path, metrics=[1])
    assert (tmp_path / RUN_FILE).read_text() == '{"configuration": '


def test_the_end_of_a_run(tmp_path):
    assert finished_configuration(tmp_path) is None
    record_run(tmp_path, finished={"seed": "1"})
    assert finished_configuration(tmp_path) == {"seed": "1"}


def test_a_fingerprint_is_recorded_once_and_accepted_again(tmp_path):
    check_fingerprint(tmp_path, quantizer=FIRST)
    before = (tmp_path / RUN_FILE).stat()
    check_fingerprint(tmp_path, quantizer=FIRST)
    assert (tmp_path / RUN_FILE).stat() == before
    assert read_run(tmp_path) == {"fingerprints": {"quantizer": FIRST}}


def test_another_fingerprint_is_refused_and_changes_nothing(tmp_path):
    check_fingerprint(tmp_path, quantizer=FIRST)
    with pytest.raises(UserError) as caught:
        check_fingerprint(tmp_path, quantizer=SECOND, pretrained=FIRST)
    message = str(caught.value)
    assert "quantizer is not what this run began with (b2b2b2b2b2b2, was a1a1a1a1a1a1)" in message
    assert message.endswith("choose another output_folder")
    assert read_run(tmp_path) == {"fingerprints": {"quantizer": FIRST}}


def test_fingerprints_have_names(tmp_path):
    check_fingerprint(tmp_path, quantizer=FIRST)
    check_fingerprint(tmp_path, pretrained=SECOND)
    check_fingerprint(tmp_path, quantizer=FIRST, pretrained=SECOND)
    assert read_fingerprint(tmp_path, "pretrained") == SECOND
    with pytest.raises(UserError, match="pretrained is not what this run began with"):
        check_fingerprint(tmp_path, pretrained=FIRST)
    record_fingerprint(tmp_path, pretrained=FIRST)
    assert read_run(tmp_path)["fingerprints"] == {"quantizer": FIRST, "pretrained": FIRST}


def test_from_scratch_counts_as_a_start(tmp_path):
    check_fingerprint(tmp_path, pretrained="from scratch")
    with pytest.raises(UserError, match=r"\(a1a1a1a1a1a1, was from scratch\)"):
        check_fingerprint(tmp_path, pretrained=FIRST)


def test_a_run_of_version_0_1(tmp_path):
    old = {
        "configuration": {"seed": "1"},
        "fingerprints": {"quantizer": FIRST},
        "finished": {"seed": "1", "number_of_epochs": "3"},
    }
    for entry, name in OLD_FILES.items():
        (tmp_path / name).write_text(json.dumps(old[entry]))
    assert read_run(tmp_path) == old
    record_run(tmp_path, configuration={"seed": "2"})
    assert read_run(tmp_path) == {**old, "configuration": {"seed": "2"}}
    assert json.loads((tmp_path / "configuration.json").read_text()) == {"seed": "1"}
