"""Models are pushed to a hub and loaded from it; the hub is a server of this machine."""

from pathlib import Path

import pytest
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.encoder.start import start_encoder
from speechbrain_pom.inference import load_encoder, load_recogniser
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.hub import fetch_model, push_model
from tests.helpers.hub import hub

__all__ = ["hub"]  # a fixture


def export(run, out, *options):
    return main(["export", str(run), str(out), *options])


def frames_of(encoder):
    with torch.no_grad():
        return encoder(torch.linspace(-1, 1, 9000).sin().unsqueeze(0))[0]


def test_pushed_and_loaded(finetuned_run, hub, tmp_path, capsys):
    assert export(finetuned_run, tmp_path / "model", "--push", "org/model") == 0
    pushed = capsys.readouterr().out.splitlines()[-1]
    assert pushed.startswith("pushed: hf://org/model@")
    written = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert hub.files("org/model")[1] == written
    assert "encoder.safetensors" in written
    for address in ("hf://org/model", "hf://org/model@main", pushed.removeprefix("pushed: ")):
        assert torch.equal(frames_of(load_encoder(address)), frames_of(load_encoder(finetuned_run)))
    recogniser = load_recogniser("hf://org/model")
    assert recogniser.units.size == 29
    # A Path of an address has one slash less.
    assert find_saved(Path("hf://org/model")).is_export


def test_a_revision_stays_what_it_was(pretrained_run, make_run, hub, tmp_path):
    assert export(pretrained_run, tmp_path / "a", "--push", "org/model") == 0
    first, _ = hub.files("org/model")
    make_run(tmp_path / "other", seed=7)
    assert export(tmp_path / "other", tmp_path / "b", "--push", "org/model", "--private") == 0
    old, new = load_encoder(f"hf://org/model@{first}"), load_encoder("hf://org/model")
    assert torch.equal(frames_of(old), frames_of(load_encoder(pretrained_run)))
    assert torch.equal(frames_of(new), frames_of(load_encoder(tmp_path / "other")))
    assert not torch.equal(frames_of(old), frames_of(new))


def test_the_weights_of_another_format_go(pretrained_run, hub, tmp_path):
    pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    assert export(pretrained_run, tmp_path / "a", "--push", "org/model") == 0
    transformers = ("--format", "transformers")
    assert export(pretrained_run, tmp_path / "b", *transformers, "--push", "org/model") == 0
    names = set(hub.files("org/model")[1])
    assert "model.safetensors" in names
    assert "encoder.safetensors" not in names
    assert load_encoder("hf://org/model").d_model == 16


def test_only_data_travel(pretrained_run, hub, tmp_path):
    export(pretrained_run, tmp_path / "model")
    (tmp_path / "model" / "notes.pkl").write_bytes(b"a pickle")
    address = push_model(tmp_path / "model", "org/model")
    assert "notes.pkl" not in hub.files("org/model")[1]
    files = {**hub.files("org/model")[1], "evil.bin": b"a pickle", "code.py": b"print()"}
    hub.commit("org/model", files)
    folder = fetch_model("hf://org/model")
    assert {"encoder.safetensors", "hyperparams.yaml"} < {path.name for path in folder.iterdir()}
    assert not {"evil.bin", "code.py"} & {path.name for path in folder.iterdir()}
    assert ("GET", f"/org/model/resolve/{hub.files('org/model')[0]}/evil.bin") not in hub.requests
    assert fetch_model(address) != folder


def test_the_cache_serves_without_a_hub(pretrained_run, hub, tmp_path):
    export(pretrained_run, tmp_path / "model", "--push", "org/model")
    revision, _ = hub.files("org/model")
    frames = frames_of(load_encoder("hf://org/model"))
    hub.server.shutdown()
    hub.server.server_close()
    assert torch.equal(frames_of(load_encoder("hf://org/model")), frames)
    assert torch.equal(frames_of(load_encoder(f"hf://org/model@{revision}")), frames)


def test_fine_tuning_starts_from_the_hub(pretrained_run, make_encoder, hub, tmp_path):
    export(pretrained_run, tmp_path / "model", "--push", "org/model")
    encoder = load_encoder(pretrained_run)
    expected = frames_of(encoder)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    start_encoder(encoder, "hf://org/model", tmp_path)
    assert torch.equal(frames_of(encoder), expected)
    # A run that is resumed does not ask again.
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    before = len(hub.requests)
    start_encoder(encoder, "hf://org/model", tmp_path)
    assert len(hub.requests) == before


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://model", "'hf://model' is no model on the hub: give hf://ORG/NAME, or"),
        ("hf://org/model@", "is no model on the hub: give hf://ORG/NAME, or"),
        ("hf://org/none", "'hf://org/none' cannot be fetched .*check the name, the network"),
        ("hf://org/model@gone", "'hf://org/model@gone' cannot be fetched .*check the name"),
    ],
)
def test_addresses_that_lead_nowhere(hub, address, message):
    hub.commit("org/model", {"README.md": b"card"})
    with pytest.raises(UserError, match=message):
        load_encoder(address)


def test_a_model_that_is_none(hub):
    hub.commit("org/model", {"README.md": b"card"})
    with pytest.raises(UserError, match=r"holds no CKPT.yaml"):
        load_encoder("hf://org/model")


def test_pushes_that_are_refused(pretrained_run, hub, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        export(pretrained_run, tmp_path / "model", "--push", "model")
    assert "--push is 'model': give the model's name on the hub as ORG" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(SystemExit):
        export(pretrained_run, tmp_path / "model", "--push", "org/model")
    error = capsys.readouterr().err
    assert "'org/model' cannot be pushed (" in error
    assert error.strip().count("\n") == 0
    assert find_saved(tmp_path / "model").is_export


def test_paths_never_ask_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("org/model", "hf", tmp_path / "hf:", "hf/org/model"):
        with pytest.raises(UserError, match=r"does not exist: give a run's folder"):
            load_encoder(path)
    assert hub.requests == []
