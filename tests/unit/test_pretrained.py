"""Finding checkpoints and loading encoders from them: all of it, or one line that says why."""

import pickle
import re
import socket
from pathlib import Path

import pytest
import torch
import yaml
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper, TransformerASR
from speechbrain.processing.features import InputNormalization

import speechbrain_pom
from speechbrain_pom.encoder.features import FeatureExtractor
from speechbrain_pom.pretrained import find_checkpoint, load_pretrained, read_meta
from speechbrain_pom.utils.errors import UserError

ENCODER = {"attention_type": "PoM", "d_model": 16, "num_encoder_layers": 2, "nhead": 2}


@pytest.fixture(autouse=True, scope="module")
def _plugin():
    speechbrain_pom.register()


def make_model(attention_type="PoM", d_model=16, num_layers=2, seed=0):
    """Front end and encoder, as the recipes save them."""
    torch.manual_seed(seed)
    cnn = ConvolutionFrontEnd(
        (8, 10, 80),
        num_blocks=2,
        num_layers_per_block=1,
        out_channels=[4, 32],
        kernel_sizes=[3, 3],
        strides=[2, 2],
        residuals=[False, False],
    )
    transformer = TransformerASR(
        1,
        640,
        d_model=d_model,
        nhead=2,
        num_encoder_layers=num_layers,
        num_decoder_layers=0,
        d_ffn=32,
        encoder_module="conformer",
        attention_type=attention_type,
        normalize_before=True,
        causal=False,
    )
    return torch.nn.ModuleList([cnn, EncoderWrapper(transformer)])


def write_checkpoint(folder, model=None, unixtime=1.0, count=True, encoder=ENCODER):
    folder.mkdir(parents=True)
    model = model or make_model()
    torch.save(model.state_dict(), folder / "model.ckpt")
    normalize = InputNormalization()
    if count:
        normalize(torch.randn(2, 50, 80), torch.ones(2), epoch=1)
    normalize._save(folder / "normalize.ckpt")
    meta = {"unixtime": unixtime, "end-of-epoch": True, "encoder": encoder}
    (folder / "CKPT.yaml").write_text(yaml.safe_dump(meta), encoding="utf-8")
    return folder


def load(checkpoint, model=None, encoder=ENCODER):
    model = model or make_model(seed=1)
    normalize = FeatureExtractor(Fbank(n_mels=80), InputNormalization())
    fingerprint = load_pretrained(checkpoint, model=model, normalize=normalize, encoder=encoder)
    return model, normalize, fingerprint


def refusal(checkpoint, **options):
    with pytest.raises(UserError) as caught:
        load(checkpoint, **options)
    return str(caught.value)


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """A checkpoint folder that is found, without an encoder in it."""

    def make(folder, unixtime):
        folder.mkdir(parents=True)
        for name in ("model.ckpt", "normalize.ckpt"):
            (folder / name).write_bytes(b"")
        (folder / "CKPT.yaml").write_text(f"unixtime: {unixtime}\n", encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize("given", ["run", "run/save", "run/save/CKPT+2"])
def test_a_run_its_save_folder_or_a_checkpoint_may_be_given(tmp_path, tiny_files, given):
    # The newest one by its own clock, not by name.
    tiny_files(tmp_path / "run/save/CKPT+3", unixtime=20.0)
    newest = tiny_files(tmp_path / "run/save/CKPT+2", unixtime=30.0)
    tiny_files(tmp_path / "run/save/CKPT+9", unixtime=10.0)
    assert find_checkpoint(tmp_path / given) == newest
    assert find_checkpoint(str(tmp_path / given)) == newest
    assert read_meta(newest) == {"unixtime": 30.0}


def test_incomplete_checkpoints_are_passed_over(tmp_path, tiny_files):
    complete = tiny_files(tmp_path / "save/CKPT+1", unixtime=1.0)
    for number, name in enumerate(["CKPT.yaml", "model.ckpt", "normalize.ckpt"]):
        broken = tiny_files(tmp_path / f"save/CKPT+{number + 2}", unixtime=2.0 + number)
        (broken / name).unlink()
    assert find_checkpoint(tmp_path) == complete


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "does not exist"), ("folder", "holds no checkpoint"), ("file", "holds no checkpoint")],
)
def test_nothing_to_be_found(tmp_path, content, problem):
    path = tmp_path / "results"
    if content == "folder":
        path.mkdir()
    elif content == "file":
        path.write_text("not a checkpoint", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        find_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"pretrained: '{path}' {problem}")
    assert "CKPT.yaml, model.ckpt, normalize.ckpt" in message
    assert message.endswith("or --pretrained null to start from scratch")


def test_everything_is_loaded(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1")
    model, normalize, fingerprint = load(checkpoint)
    expected = make_model().state_dict()
    different = make_model(seed=1).state_dict()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert not all(torch.equal(loaded[name], different[name]) for name in expected)
    stored = torch.load(checkpoint / "normalize.ckpt", weights_only=True)
    assert torch.equal(normalize.mean, stored["glob_mean"])
    assert torch.equal(normalize.std, stored["glob_std"])
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    other = write_checkpoint(tmp_path / "CKPT+2", make_model(seed=2))
    assert load(other)[2] != fingerprint


@pytest.mark.parametrize(
    ("options", "encoder"),
    [
        ({"attention_type": "RelPosMHAXL"}, {**ENCODER, "attention_type": "RelPosMHAXL"}),
        ({"attention_type": "PoM(3)"}, {**ENCODER, "attention_type": "PoM(3)"}),
        ({"d_model": 24}, {**ENCODER, "d_model": 24}),
        ({"num_layers": 3}, {**ENCODER, "num_encoder_layers": 3}),
        ({"num_layers": 1}, {**ENCODER, "num_encoder_layers": 1}),
    ],
)
def test_another_architecture_is_refused_in_one_line_that_names_both(tmp_path, options, encoder):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1", make_model(**options), encoder=encoder)
    message = refusal(checkpoint)
    shown = ("attention_type", "d_model", "num_encoder_layers")
    theirs, ours = ({key: side[key] for key in shown} for side in (encoder, ENCODER))
    assert f"is {theirs}, this run is {ours}: set these alike" in message
    assert "\n" not in message


@pytest.mark.parametrize("change", ["missing", "left over", "shape"])
def test_a_single_wrong_tensor_is_refused(tmp_path, change):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1")
    state = torch.load(checkpoint / "model.ckpt", weights_only=True)
    name = next(iter(state))
    if change == "missing":
        del state[name]
    elif change == "left over":
        state["1.extra"] = torch.zeros(1)
    else:
        state[name] = state[name][..., :-1]
    torch.save(state, checkpoint / "model.ckpt")
    assert ("1.extra" if change == "left over" else name) in refusal(checkpoint)


@pytest.mark.parametrize(
    ("key", "theirs"), [("nhead", 4), ("positional_encoding", None), ("padding", "speechbrain")]
)
def test_what_shapes_do_not_show_is_compared(tmp_path, key, theirs):
    ours = {**ENCODER, "positional_encoding": "fixed_abs_sine", "padding": "exact"}
    checkpoint = write_checkpoint(tmp_path / "CKPT+1", encoder={**ours, key: theirs})
    message = refusal(checkpoint, encoder=ours)
    assert f"was made with {key} {theirs} (here {ours[key]}): set these alike" in message


def test_checkpoints_without_a_description_are_judged_by_their_tensors(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1")
    (checkpoint / "CKPT.yaml").write_text("unixtime: 1.0\n", encoding="utf-8")
    load(checkpoint)
    assert "is unknown, this run is" in refusal(checkpoint, model=make_model(d_model=24))


def test_missing_statistics_are_refused(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1", count=False)
    message = refusal(checkpoint)
    assert f"{checkpoint}/normalize.ckpt has no statistics of the features" in message


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.ckpt", "normalize.ckpt"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, name):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1")
    trace = tmp_path / "executed"
    torch.save({"count": Evil(trace)}, checkpoint / name)
    message = refusal(checkpoint)
    assert f"{checkpoint / name} is damaged or no file of tensors (" in message
    assert "\n" not in message
    assert not trace.exists()
    # The same file does run code where pickles are trusted.
    torch.load(checkpoint / name, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"half a file", pickle.dumps([1, 2], 2), "cut"])
@pytest.mark.parametrize("name", ["model.ckpt", "normalize.ckpt"])
def test_damaged_files_are_refused(tmp_path, name, content):
    checkpoint = write_checkpoint(tmp_path / "CKPT+1")
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:1000] if content == "cut" else content)
    message = refusal(checkpoint)
    assert f"{path} is damaged or no file of tensors (" in message


def test_published_parameter_names_are_accepted_in_a_whole_encoder(tmp_path):
    published = {
        "poly_proj.0.": "mh_pom.po_proj.",
        "gate_proj.0.": "mh_pom.se_proj.",
        "out_proj.": "mh_pom.ag_proj.",
        "mha_layer.norm.": "mha_layer.layer_norm.",
    }
    checkpoint = write_checkpoint(tmp_path / "CKPT+1")
    ours = torch.load(checkpoint / "model.ckpt", weights_only=True)
    renamed = {}
    for name, tensor in ours.items():
        if ".mha_layer." in name:
            for here, there in published.items():
                name = name.replace(here, there)
        renamed[name] = tensor
    assert sum("mh_pom" in name for name in renamed) == 2 * 3 * 2  # layers, projections, kinds
    torch.save(renamed, checkpoint / "model.ckpt")
    model, _, _ = load(checkpoint)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())


# The first could be the name of a model on a hub.
@pytest.mark.parametrize("path", ["results/bestrq_pmo", "results/bestrq_pmo/1000"])
def test_a_wrong_path_is_never_looked_for_on_the_network(monkeypatch, tmp_path, path):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"'{path}' does not exist"):
        find_checkpoint(path)
