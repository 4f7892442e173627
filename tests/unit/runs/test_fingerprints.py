"""What must not change while a run is resumed."""

import json

import pytest

from speechbrain_pom.runs.fingerprints import check_fingerprint
from speechbrain_pom.utils.errors import UserError

FIRST, SECOND = "a1" * 32, "b2" * 32


def test_recorded_once_and_accepted_again(tmp_path):
    path = tmp_path / "fingerprints.json"
    check_fingerprint(path, quantizer=FIRST)
    before = path.stat()
    check_fingerprint(path, quantizer=FIRST)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert json.loads(path.read_text()) == {"quantizer": FIRST}


def test_a_change_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "fingerprints.json"
    check_fingerprint(path, quantizer=FIRST)
    with pytest.raises(UserError) as caught:
        check_fingerprint(path, quantizer=SECOND, pretrained=FIRST)
    message = str(caught.value)
    assert "quantizer is not what this run began with (b2b2b2b2b2b2, was a1a1a1a1a1a1)" in message
    assert message.endswith("choose another output_folder")
    assert json.loads(path.read_text()) == {"quantizer": FIRST}


def test_names_are_kept_apart(tmp_path):
    path = tmp_path / "fingerprints.json"
    check_fingerprint(path, quantizer=FIRST)
    check_fingerprint(path, pretrained=SECOND)
    check_fingerprint(path, quantizer=FIRST, pretrained=SECOND)
    assert json.loads(path.read_text()) == {"quantizer": FIRST, "pretrained": SECOND}
    with pytest.raises(UserError, match="pretrained is not what this run began with"):
        check_fingerprint(path, pretrained=FIRST)


def test_from_scratch_counts_as_a_start(tmp_path):
    path = tmp_path / "fingerprints.json"
    check_fingerprint(path, pretrained="from scratch")
    with pytest.raises(UserError, match=r"\(a1a1a1a1a1a1, was from scratch\)"):
        check_fingerprint(path, pretrained=FIRST)
