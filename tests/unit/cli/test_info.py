"""`info` says what is registered, and what an hparams file really builds."""

import json
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

import speechbrain_pom
from speechbrain_pom.__main__ import main
from speechbrain_pom.cli.models import describe_models, mixer_name

PLAIN = str(Path(__file__).parents[2] / "data" / "plain_recipe" / "hparams.yaml")

# An object before what it refers to, objects that would write or fail, one module under many
# names, a frozen part, a placeholder that no model needs.
AWKWARD = """
output_folder: !PLACEHOLDER
checkpointer: !new:speechbrain.utils.checkpoints.Checkpointer
    checkpoints_dir: !ref <output_folder>/save
    recoverables:
        model: !ref <model>
tokenizer: !new:sentencepiece.SentencePieceProcessor
    model_file: !ref <output_folder>/missing.model
attention_type: regularMHA
Transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    {arguments}
head: !new:torch.nn.Linear
    in_features: 16
    out_features: 4
frozen: !new:torch.nn.Linear
    in_features: 3
    out_features: 2
__freeze: !apply:torch.nn.Module.requires_grad_
    - !ref <frozen>
    - False
loss: !new:torch.nn.MSELoss
modules:
    transformer: !ref <Transformer>
    head: !ref <head>
    extra: !new:torch.nn.Linear
        in_features: 2
        out_features: 1
model: !new:torch.nn.ModuleList
    - [!ref <Transformer>, !ref <head>]
"""
ARGUMENTS = {
    "tgt_vocab": 5,
    "input_size": 8,
    "d_model": 16,
    "nhead": 2,
    "num_encoder_layers": 3,
    "num_decoder_layers": 0,
    "d_ffn": 32,
    "encoder_module": "conformer",
    "normalize_before": True,
    "causal": False,
}


@pytest.fixture
def awkward(tmp_path, monkeypatch):
    lines = [f"{key}: {value}" for key, value in ARGUMENTS.items()]
    lines.append("attention_type: !ref <attention_type>")
    path = tmp_path / "awkward.yaml"
    path.write_text(AWKWARD.replace("{arguments}", "\n    ".join(lines)))
    monkeypatch.chdir(tmp_path)
    return path


def report(capsys, *arguments):
    capsys.readouterr()
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["info", *map(str, arguments)])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_lists_the_attention_types(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for name, description in speechbrain_pom.attention_types().items():
        assert any(line.split() == [name, *description.split()] for line in text.splitlines())
    assert "options: degree=2, expand=2, variant='base'" in text


def test_lists_types_of_others_with_required_options(capsys):
    def factory(d_model, width, nhead, shift=None):
        """Shift the frames."""

    speechbrain_pom.register_attention("Shift", factory)
    try:
        types = report(capsys)["attention_types"]
    finally:
        speechbrain_pom.unregister_attention("Shift")
    (shift,) = [kind for kind in types if kind["name"] == "Shift"]
    assert shift == {
        "name": "Shift",
        "description": "Shift the frames.",
        "builtin": False,
        "options": [{"name": "width"}, {"name": "shift", "default": None}],
    }


def test_counts_every_parameter_once(awkward, capsys):
    summary = report(capsys, awkward)
    transformer = TransformerASR(**ARGUMENTS, attention_type="regularMHA")
    size = sum(weight.numel() for weight in transformer.parameters())
    assert summary["parts"] == [
        {"name": "Transformer", "class": "TransformerASR", "parameters": size, "trainable": size},
        {"name": "head", "class": "Linear", "parameters": 68, "trainable": 68},
        {"name": "frozen", "class": "Linear", "parameters": 8, "trainable": 0},
        {"name": "modules.extra", "class": "Linear", "parameters": 3, "trainable": 3},
    ]
    assert summary["parameters"] == size + 79
    assert summary["frozen"] == 8
    assert [encoder["name"] for encoder in summary["encoders"]] == ["Transformer.encoder"]


def test_builds_the_same_parameters_as_the_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(PLAIN) as stream:
        hparams = load_hyperpyyaml(stream, {"data_folder": "x"})
    full = torch.nn.ModuleDict(hparams["modules"])
    assert report(capsys, PLAIN)["parameters"] == sum(w.numel() for w in full.parameters())


def test_leaves_nothing_behind(awkward, capsys):
    """Neither in the current folder nor in an output folder that is given."""
    output = awkward.parent / "output"
    report(capsys, awkward, "--output_folder", output)
    report(capsys, PLAIN)
    assert list(awkward.parent.iterdir()) == [awkward]
    with open(awkward) as stream, pytest.raises((OSError, RuntimeError), match="missing"):
        load_hyperpyyaml(stream, {"output_folder": str(output)})
    assert output.exists(), "building everything does leave a folder: the test can fail"


def test_layers_of_a_hybrid(awkward, capsys):
    spec = "RelPosMHAXL*1 + PoM(degree=3)*2"
    summary = report(capsys, awkward, "--attention_type", spec)
    (encoder,) = summary["encoders"]
    pom = "PoM(degree=3, expand=2, variant='base', recompute=False, backend='auto')"
    assert summary["attention_type"] == spec
    assert [layer["mixer"] for layer in encoder["layers"]] == ["RelPosMHAXL", pom, pom]
    mixer = speechbrain_pom.PolynomialMixer(16, degree=3)
    size = sum(weight.numel() for weight in mixer.parameters())
    assert encoder["layers"][1]["parameters"]["mixer"] == size
    assert encoder["layers"][1]["parameters"]["other"] == 0

    assert main(["info", str(awkward), f"--attention_type={spec}"]) == 0
    text = capsys.readouterr().out
    assert f"attention_type: {spec}" in text
    assert f"layers 0 RelPosMHAXL, 1-2 {pom}" in text
    (row,) = [line.split() for line in text.splitlines() if line.strip().startswith("1-2 ")]
    assert row[1] == f"{size:,}"
    (total,) = [line.split() for line in text.splitlines() if line.strip().startswith("total")]
    assert total == ["total", *(f"{summary[k]:,}" for k in ("parameters", "trainable", "frozen"))]


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        *(("conformer", s) for s in ("regularMHA", "RelPosMHAXL", "hypermixing", "RoPEMHA")),
        ("conformer", "PoM(variant=selective)"),
        ("transformer", "regularMHA"),
        ("transformer", "PoM"),
        ("branchformer", "RelPosMHAXL"),
        ("branchformer", "PoM(4, 1)"),
    ],
)
def test_groups_of_a_layer_add_up(module, spec):
    arguments = {**ARGUMENTS, "encoder_module": module, "attention_type": spec}
    model = TransformerASR(**arguments)
    (encoder,) = describe_models({"model": model})["encoders"]
    assert len(encoder["layers"]) == 3
    for layer, described in zip(model.encoder.layers, encoder["layers"], strict=True):
        sizes = described["parameters"]
        assert sum(sizes.values()) == sum(weight.numel() for weight in layer.parameters())
        assert sizes["mixer"] > 0
        assert sizes["norms"] >= 4 * 16
        assert (sizes["convolution"] > 0) == (module != "transformer")
        assert (sizes["feed-forward"] > 0) == (module != "branchformer")
        assert described["mixer"].startswith(spec.split("(")[0])


def test_a_mixer_of_no_type_shows_its_class():
    assert mixer_name(torch.nn.Identity()) == "Identity"


def test_placeholders_that_a_model_needs_are_named(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(
        "data_folder: !PLACEHOLDER\nd_model: !PLACEHOLDER\ncsv: !ref <data_folder>/train.csv\n"
        "head: !new:torch.nn.Linear\n    in_features: !ref <d_model>\n    out_features: 2\n"
    )
    error = refusal(capsys, path)
    assert f"{path}: its models need --d_model: " in error
    assert report(capsys, path, "--d_model", "3")["parameters"] == 8


def test_bad_calls(awkward, capsys):
    message = refusal(capsys, awkward, "--attention_type", "PoMM")
    assert f"{awkward}: cannot build it: " in message
    assert "unknown type 'PoMM' at column 1 (closest: PoM)" in message
    assert "no such experiment file: 'nothing.yaml'" in refusal(capsys, "nothing.yaml")
    message = refusal(capsys, awkward, "--attention_typ", "PoM")
    assert "unknown option --attention_typ: did you mean --attention_type?" in message
    awkward.write_text("a: 1\nloss: !new:torch.nn.MSELoss\n")
    message = refusal(capsys, awkward)
    assert f"{awkward}: none of its keys builds a torch module with parameters" in message
    awkward.write_text("a: !new:no.such.Thing\n")
    assert "cannot build it: There is no such class as no.such.Thing" in refusal(capsys, awkward)


def test_overrides_need_a_yaml(capsys):
    message = refusal(capsys, "--attention_type=PoM")
    assert "--attention_type=PoM: overrides come after the YAML that they are for" in message


def test_the_current_folder_is_kept(awkward, capsys):
    report(capsys, awkward)
    assert Path.cwd() == awkward.parent
    refusal(capsys, awkward, "--attention_type", "PoMM")
    assert Path.cwd() == awkward.parent
