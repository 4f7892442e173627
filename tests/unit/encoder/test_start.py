"""Where a run's encoder comes from: a pretrained one, an architecture, or its own checkpoints."""

import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML

from speechbrain_pom.encoder import load_encoder
from speechbrain_pom.encoder.architecture import as_text, read_architecture
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.encoder.start import FROM_SCRATCH, encoder_section, start_encoder
from speechbrain_pom.runs.checkpoints import CHECKSUMS_FILE
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.runs.record import read_fingerprint
from speechbrain_pom.utils.errors import UserError
from tests.helpers.refusals import refusal

SMALL = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 2, "cnn_channels": 4}
POM = "hparams/pom.yaml"


def load_finetuning(**overrides):
    """The objects of hparams/pom_ctc.yaml."""
    overrides = {"dnn_neurons": 8, "output_folder": "none", **overrides}
    with open("hparams/pom_ctc.yaml", encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, overrides)


def weights(encoder):
    return torch.cat([weight.detach().flatten() for weight in encoder.parameters()])


def test_it_is_built_as_it_was_pretrained(make_run, tmp_path):
    make_run(tmp_path / "run", attention_type="PoM(degree=3) + RelPosMHAXL", d_ffn=48)
    hparams = load_finetuning(pretrained=str(tmp_path / "run"), dropout=0.3)
    encoder, expected = hparams["encoder"], load_encoder(tmp_path / "run")
    assert [type(layer.mha_layer) for layer in encoder.transformer.encoder.layers] == [
        type(layer.mha_layer) for layer in expected.transformer.encoder.layers
    ]
    layer = encoder.transformer.encoder.layers[0]
    rates = {part.p for part in layer.modules() if isinstance(part, torch.nn.Dropout)}
    assert 0.3 in rates
    assert not torch.equal(weights(encoder), weights(expected))
    start_encoder(encoder, tmp_path / "run", tmp_path)
    assert torch.equal(weights(encoder), weights(expected))
    assert torch.equal(encoder.features.mean, expected.features.mean)
    assert re.fullmatch("[0-9a-f]{64}", read_fingerprint(tmp_path, "pretrained"))
    assert hparams["head"](torch.zeros(1, 5, 16)).shape == (1, 5, 29)


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_a_checkpoint_or_an_export_may_be_given(make_run, tmp_path, kind):
    from speechbrain_pom.reports.export import export_model

    path = make_run(tmp_path / "run")
    if kind == "export":
        path = tmp_path / "exported"
        export_model(find_saved(tmp_path / "run"), path)
    encoder = load_finetuning(pretrained=str(path))["encoder"]
    start_encoder(encoder, path, tmp_path)
    assert torch.equal(weights(encoder), weights(load_encoder(path)))
    encoder.features.save_statistics(tmp_path / "normalize.ckpt")
    encoder.features.load_statistics(tmp_path / "normalize.ckpt")


def test_the_head_is_drawn_after_the_encoder_as_from_one_yaml(make_run, tmp_path):
    """Same seed, same head, whether the encoder is pretrained or from scratch."""
    make_run(tmp_path / "run")
    scratch = {"pretrained": None, "architecture": POM, "architecture_overrides": dict(SMALL)}
    first, second = load_finetuning(pretrained=str(tmp_path / "run")), load_finetuning(**scratch)
    assert torch.equal(weights(first["encoder"]), weights(second["encoder"]))
    assert torch.equal(weights(first["head"]), weights(second["head"]))
    other = load_finetuning(**scratch, seed=7)
    assert not torch.equal(weights(first["head"]), weights(other["head"]))


def test_from_scratch_by_an_hparams_file_or_the_architecture_of_a_run(make_run, tmp_path, caplog):
    make_run(tmp_path / "run", attention_type="Mamba", d_model=24)
    section = encoder_section(None, tmp_path / "run")
    assert section["transformer"]["attention_type"] == "Mamba"
    section = encoder_section(None, POM, {"attention_type": "RelPosMHAXL", "d_model": 96})
    transformer = section["transformer"]
    assert (transformer["attention_type"], transformer["d_model"]) == ("RelPosMHAXL", 96)
    assert transformer["dropout"] == 0.1
    start_encoder(None, None, tmp_path)
    assert "pretrained is null: training FROM SCRATCH" in caplog.text
    assert read_fingerprint(tmp_path, "pretrained") == FROM_SCRATCH


def test_a_resumed_run_needs_no_pretrained_one(make_run, tmp_path):
    """What the run wrote into its folder and its checkpoints is enough."""
    make_run(tmp_path / "pretrained", attention_type="PoM(degree=3)")
    run, given = tmp_path / "run", {"pretrained": str(tmp_path / "pretrained")}
    overrides = {**given, "output_folder": str(run), "dnn_neurons": 8}
    hparams = load_finetuning(**overrides)
    start_encoder(hparams["encoder"], given["pretrained"], run)
    with open("hparams/pom_ctc.yaml", encoding="utf-8") as stream:
        (run / "hyperparams.yaml").write_text(resolve_references(stream, overrides).getvalue())
    checkpoint = hparams["checkpointer"].save_checkpoint(meta={"wer": 50.0}).path
    shutil.rmtree(tmp_path / "pretrained")
    again = load_finetuning(**overrides)
    start_encoder(again["encoder"], given["pretrained"], run)
    again["checkpointer"].recover_if_possible()
    assert torch.equal(weights(again["encoder"]), weights(hparams["encoder"]))
    # The checkpoint says by itself what it is.
    shutil.copytree(checkpoint, tmp_path / "alone")
    alone = load_encoder(tmp_path / "alone")
    assert torch.equal(weights(alone), weights(hparams["encoder"]))
    # A run that has not begun does need it.
    message = refusal(encoder_section, given["pretrained"], output_folder=tmp_path / "new")
    assert f"pretrained: '{tmp_path}/pretrained' does not exist: give a run's folder" in message
    assert message.endswith("--pretrained null --architecture FILE starts from scratch")


def test_another_encoder_than_the_run_began_with(make_run, tmp_path):
    for name, seed in (("first", 1), ("second", 2)):
        make_run(tmp_path / name, seed=seed)
    run = make_run(tmp_path / "run", "ctc").parents[1]
    encoder = load_encoder(tmp_path / "first")
    start_encoder(encoder, tmp_path / "first", run)
    start_encoder(encoder, tmp_path / "first", run)
    message = refusal(start_encoder, encoder, tmp_path / "second", run)
    assert "pretrained is not what this run began with" in message


def test_a_checkpoint_that_was_taken_from_its_run_needs_its_hparams_file(make_run, tmp_path):
    make_run(tmp_path / "run", d_model=24)
    shutil.copytree(find_saved(tmp_path / "run").checkpoint, tmp_path / "bare")
    for name in ("hyperparams.yaml", CHECKSUMS_FILE):  # as checkpoints of SpeechBrain's recipe
        (tmp_path / "bare" / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "run/hyperparams.yaml", tmp_path / "model.yaml")
    message = refusal(encoder_section, tmp_path / "bare")
    assert message.startswith(
        f"pretrained is '{tmp_path}/bare', which has no hyperparams.yaml: give"
    )
    assert message.endswith("--architecture FILE")
    given = {"pretrained": str(tmp_path / "bare"), "architecture": str(tmp_path / "model.yaml")}
    encoder = load_finetuning(**given)["encoder"]
    start_encoder(encoder, given["pretrained"], tmp_path, given["architecture"])
    assert torch.equal(weights(encoder), weights(load_encoder(tmp_path / "run")))
    given["architecture"] = POM
    same = load_finetuning(**given, architecture_overrides={**SMALL, "d_model": 24})["encoder"]
    start_encoder(same, given["pretrained"], tmp_path, given["architecture"])
    assert torch.equal(weights(same), weights(encoder))
    other = load_finetuning(**given, architecture_overrides=dict(SMALL))["encoder"]
    with pytest.raises(UserError, match=r"bare/model\.ckpt"):
        start_encoder(other, given["pretrained"], tmp_path, given["architecture"])


def test_overrides_that_change_nothing(make_run, tmp_path):
    make_run(tmp_path / "run")
    hparams_file = tmp_path / "run/hyperparams.yaml"  # numbers stand there in full
    d_model = encoder_section(None, hparams_file)["transformer"]["d_model"]
    message = refusal(encoder_section, None, hparams_file, {"d_model": d_model + 8})
    assert f"hyperparams.yaml: d_model = {d_model + 8} changes nothing of the encoder" in message
    assert "lr = 3 changes nothing" in refusal(encoder_section, None, POM, {"lr": 3})
    encoder_section(None, hparams_file, {"d_model": d_model})  # as it is
    inside = {"encoder.transformer.dropout": 0.25}
    assert encoder_section(None, hparams_file, inside)["transformer"]["dropout"] == 0.25


def test_calls_that_cannot_be(make_run, tmp_path):
    make_run(tmp_path / "run")
    assert "which has its own architecture: leave out architecture" in refusal(
        encoder_section, tmp_path / "run", POM
    )
    assert "pretrained is null: give the architecture" in refusal(encoder_section, None)
    assert "a run whose values are settled" in refusal(
        encoder_section, None, tmp_path / "run", {"d_model": 24}
    )
    assert "unknown option d_modle: did you mean d_model?" in refusal(
        encoder_section, None, POM, {"d_modle": 24}
    )
    assert "no such experiment file: 'none.yaml'" in refusal(encoder_section, None, "none.yaml")


@pytest.mark.parametrize("key", ["attention_type", "d_model", "Transformer.d_ffn", "n_mels"])
def test_keys_of_the_architecture_are_no_options_of_fine_tuning(key):
    message = refusal(parse_command_line, ["hparams/pom_ctc.yaml", f"--{key}", "24"])
    assert f"--{key} is a key of the encoder's architecture, which comes from --pretrain" in message
    assert f"--architecture hparams/pom.yaml --architecture_overrides '{{{key}: 24}}'" in message
    request = parse_command_line(
        ["hparams/pom_ctc.yaml", "--architecture_overrides", "{attention_type: Mamba, d_model: 96}"]
    )
    overrides = request.overrides["architecture_overrides"]
    assert dict(overrides) == {"attention_type": "Mamba", "d_model": 96}


def test_sections_of_older_files_give_the_same_architecture(tmp_path):
    """The four keys of SpeechBrain's recipe and of version 0.1, and the section of today."""
    text = Path(POM).read_text(encoding="utf-8")
    text = re.sub(r"(?ms)^encoder: .*?^\n", "", text)  # up to the empty line
    text = re.sub(r"(?ms)^(objective|modules|optimizer): .*", "", text)
    (tmp_path / "old.yaml").write_text(text, encoding="utf-8")
    assert "encoder: !new" not in text
    assert read_architecture(tmp_path / "old.yaml", SMALL) == read_architecture(POM, SMALL)


# The first could be the name of a model on a hub.
@pytest.mark.parametrize("path", ["results/bestrq_pmo", "results/bestrq_pmo/1000"])
def test_a_wrong_path_is_never_looked_for_on_the_network(monkeypatch, tmp_path, path):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    assert f"'{path}' does not exist" in refusal(encoder_section, path)


def test_values_of_an_architecture_stay_as_they_are_written():
    text = "sizes: (8, 10)\nrate: 1.0e-9\nact: &a !name:torch.nn.GELU\nagain: *a\n"
    found = as_text(YAML().load(text + "# /home/me\n"))
    assert found.replace("GELU ''", "GELU").replace("id001", "a") == text
