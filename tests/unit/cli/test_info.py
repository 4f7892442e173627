"""`info` says what is registered, and what an hparams file really builds."""

import json
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

import speechbrain_pom
from speechbrain_pom.__main__ import main
from speechbrain_pom.encoder.describe import describe_models, mixer_name
from tests.helpers import ROOT

PLAIN = str(ROOT / "tests/data/plain_recipe/hparams.yaml")

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
    assert encoder["attention_type"] == f"RelPosMHAXL*1 + {pom}*2"
    assert "attention_type" not in summary, "what the file asks for is not what was built"
    assert [layer["mixer"] for layer in encoder["layers"]] == ["RelPosMHAXL", pom, pom]
    mixer = speechbrain_pom.PolynomialMixer(16, degree=3)
    size = sum(weight.numel() for weight in mixer.parameters())
    assert encoder["layers"][1]["parameters"]["mixer"] == size
    assert encoder["layers"][1]["parameters"]["other"] == 0

    assert main(["info", str(awkward), f"--attention_type={spec}"]) == 0
    text = capsys.readouterr().out
    assert spec not in text
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


LINEAR = "head: !new:torch.nn.Linear {in_features: 8, out_features: 2}\n"
ENCODER = "speechbrain.lobes.models.transformer.Transformer.TransformerEncoder"
NESTED = (
    f"{{name}}: !new:{ENCODER}\n"
    "    {{num_layers: 2, d_model: 8, nhead: 2, d_ffn: 8, attention_type: RoPEMHA}}\n"
)
TWO = NESTED.format(name="first") + NESTED.format(name="second")
POM = "PoM(degree=2, expand=2, variant='base', recompute=False, backend='auto')"


def built_types(capsys, *arguments):
    encoders = report(capsys, *arguments)["encoders"]
    return {encoder["name"]: encoder["attention_type"] for encoder in encoders}


def test_types_inside_of_sections(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(TWO)
    assert built_types(capsys, path) == {"first": "RoPEMHA", "second": "RoPEMHA"}
    both = built_types(capsys, path, "--attention_type", "PoM")
    assert both == {"first": POM, "second": POM}
    arguments = ("--second.attention_type=PoM", "--first.num_layers", "3")
    assert built_types(capsys, path, *arguments) == {"first": "RoPEMHA", "second": POM}
    message = refusal(capsys, path, "--second.attention_typ", "PoM")
    assert "unknown option --second.attention_typ: did you mean --second.attention_type?" in message


def test_a_type_at_the_top_that_reaches_no_model_is_not_reported_but_refused(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    plugin = "plugin: !apply:speechbrain_pom.register\nattention_type: PoM(degree=2, expand=2)\n"
    path.write_text(plugin + TWO)
    message = refusal(capsys, path)
    assert (
        "attention_type: PoM(degree=2, expand=2) stands at the top of the file, but no" in message
    )
    assert "into first (TransformerEncoder) and second (TransformerEncoder)" in message
    path.write_text(plugin + TWO.replace("RoPEMHA", "!ref <attention_type>", 1))
    assert built_types(capsys, path) == {"first": POM, "second": "RoPEMHA"}


# What is only named, whether its package is there or not, and what cannot be built without it.
METRICS = {
    "a metric that is named": "bleu: !name:speechbrain_pom_absent.bleu.BLEUStats\n",
    "a metric of speechbrain": "bleu: !name:speechbrain.integrations.nlp.bleu.BLEUStats\n",
    "in a mapping": "stats: {bleu: !name:speechbrain_pom_absent.bleu.BLEUStats {lang: en}}\n",
    "a module": "np: !module:speechbrain_pom_absent\n",
    "an object of another class": "counter: !new:collections.Counter {bad: !new:a_b.C {}}\n",
}


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_no_model_is_not_built(metric, tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(METRICS[metric] + LINEAR)
    summary = report(capsys, path)
    assert summary["parameters"] == 18
    assert summary["left_out"] == []


LAZY = """\
import torch

class Lazy(torch.nn.Module):
    def __init__(self, size=1):
        super().__init__()
        import speechbrain_pom_absent.models

class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        try:
            import speechbrain_pom_absent
        except ImportError:
            raise ImportError("install it first")

class Old(torch.nn.Module):
    def __init__(self):
        super().__init__()
        raise ImportError("Old: the installed library is too old")

class Typo(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from torch.nn.no_such_part import Linear
"""
ABSENT = "needs the package speechbrain_pom_absent"


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("bleu: !new:speechbrain_pom_absent.bleu.BLEUStats\n", {"bleu": ABSENT}),
        ("lm: !new:lazy_models.Lazy\n", {"lm": ABSENT}),
        (
            "lm: !new:lazy_models.Lazy {size: 2}\nhold: !new:torch.nn.ModuleList [[!ref <lm>]]\n",
            {"lm": ABSENT, "hold": ABSENT},
        ),
        ("lm: !new:lazy_models.Wrapped\n", {"lm": ABSENT}),
        (
            "lm: !new:lazy_models.Old\n",
            {"lm": "needs what is not installed: Old: the installed library is too old"},
        ),
        ("made: !apply:speechbrain_pom_absent.make [1]\n", {"made": ABSENT}),
        (
            "modules:\n    head: !ref <head>\n    lm: !new:lazy_models.Lazy\n",
            {"modules.lm": ABSENT},
        ),
        (
            "parts:\n  - !new:lazy_models.Lazy\n  - !ref <head>\n  - !new:lazy_models.Lazy\n",
            {"parts.0": ABSENT, "parts.2": ABSENT},
        ),
    ],
)
def test_parts_whose_package_is_absent_are_left_out_by_name(
    text, left_out, tmp_path, capsys, monkeypatch
):
    (tmp_path / "lazy_models.py").write_text(LAZY)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text + LINEAR)
    summary = report(capsys, path)
    assert summary["parameters"] == 18
    assert {part["name"]: part["reason"] for part in summary["left_out"]} == left_out
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(f"not built: {name} {reason}" in lines for name, reason in left_out.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lm: !new:torch.nn.Linaer {in_features: 1}\n", "no such class as torch.nn.Linaer"),
        ("lm: !new:lazy_models.Typo\n", "No module named 'torch.nn.no_such_part'"),
        ("lm: !new:lazy_models.Lazy\nbad: !new:torch.nn.Linear {in: 1}\n", "argument 'in'"),
    ],
)
def test_other_failures_still_stop(text, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "lazy_models.py").write_text(LAZY)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text + LINEAR)
    assert message in refusal(capsys, path)


def test_overrides_need_a_yaml(capsys):
    message = refusal(capsys, "--attention_type=PoM")
    assert "--attention_type=PoM: overrides come after the YAML that they are for" in message


def test_the_current_folder_is_kept(awkward, capsys):
    report(capsys, awkward)
    assert Path.cwd() == awkward.parent
    refusal(capsys, awkward, "--attention_type", "PoMM")
    assert Path.cwd() == awkward.parent


def test_says_whether_an_encoder_streams(awkward, capsys):
    assert main(["info", str(awkward), "--attention_type=PoM + Fastformer*2"]) == 0
    text = capsys.readouterr().out
    assert "\nstreaming no: Fastformer cannot stream: its softmaxes run over" in text


@pytest.mark.parametrize(
    ("spec", "floor", "says"),
    [
        (
            "PoM",
            "utterance",
            "with a finite left context or all of the past, and the features of feature_floor: "
            "running",
        ),
        ("PoM + RoPEMHA", "running", "with a finite left context"),
        ("Mamba(bidirectional=False)", "running", "with all of the past"),
        (
            "hypermixing",
            "running",
            "no: hypermixing cannot mix a stream step by step: choose another attention_type",
        ),
    ],
)
def test_says_how_the_encoder_of_a_recipe_streams(make_encoder, spec, floor, says):
    encoder = make_encoder(spec, feature_floor=floor)
    models = {"Transformer": encoder.transformer, "encoder": encoder}
    (described,) = describe_models(models)["encoders"]
    assert described["name"] == "Transformer.encoder"
    assert described["streaming"] == says
    assert (encoder.can_stream() is None) == ("past" in says)


def test_what_is_before_the_layers_counts_too(make_encoder):
    encoder = make_encoder("PoM", norm_type="sentence")
    (described,) = describe_models({"encoder": encoder})["encoders"]
    assert described["streaming"].startswith("no: its features are normalised by the whole")
