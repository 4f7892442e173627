"""ONNX files: what they compute, and what is refused."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.deploy import onnx_files, write_onnx, write_onnx_stream
from speechbrain_pom.deploy.graphs import WaveformGraph, difference
from speechbrain_pom.deploy.stream_graphs import StreamGraph
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

STREAMING = "PoM(variant='selective') + SummaryMixing(mode='lite')"


def close(found, expected):
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_command_writes_what_the_recogniser_computes(make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # One layer, as layers take their time one by one; PoM is in the example of docs/deploy.md.
    size = {"num_encoder_layers": 1}
    make_run(tmp_path / "ctc", "ctc", attention_type="SummaryMixing", **size)
    assert main(["export", "ctc", "ctc.onnx", "--onnx", "--licence", "apache-2.0"]) == 0
    printed = capsys.readouterr().out
    assert "(validation: greedy WER 50.00 %)" in printed
    assert "in   wavs (batch, samples) float" in printed
    assert "out  log_probs (batch, frames, 29) float" in printed
    content = (tmp_path / "ctc.onnx").read_bytes()
    assert str(ROOT).encode() not in content  # no paths of this machine
    assert b"site-packages" not in content
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["ctc.onnx"]
    session = onnxruntime.InferenceSession("ctc.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    recogniser = load_recogniser("ctc")
    assert json.loads(facts["labels"]) == recogniser.units.vocab_list
    assert (facts["licence"], facts["frame_s"], facts["min_samples"]) == ("apache-2.0", "0.04", "1")
    # 100 s are the end of SpeechBrain's table of positions.
    for lengths in ([1], [1, 640], [500, 63, 9000, 1, 16001, 639], [101 * 16000]):
        wavs, lengths = 0.1 * torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)
        wavs = wavs.masked_fill(torch.arange(wavs.shape[1]) >= lengths[:, None], 7.0)  # not read
        feeds = {"wavs": wavs.numpy(), "num_samples": lengths.numpy()}
        log_probs, num_frames = session.run(None, feeds)
        expected, expected_lengths = recogniser(wavs, lengths)
        close(log_probs, expected)
        assert num_frames.tolist() == expected_lengths.tolist()


def streamed(path, wav, num_packet):
    """The loop of docs/deploy.md, for one stream."""
    session = onnxruntime.InferenceSession(path)
    facts = session.get_modelmeta().custom_metadata_map
    window, hop = int(facts["window_samples"]), int(facts["hop_samples"])
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}
    _, *inputs = session.get_inputs()
    state = [np.zeros([1, *one.shape[1:]], kinds[one.type]) for one in inputs]
    heard, outputs = np.zeros((1, int(facts["zeros_before"])), "float32"), []
    for packet in wav.split(num_packet):
        heard = np.concatenate([heard, packet.numpy()[None]], axis=1)
        while heard.shape[1] >= window:
            feeds = {one.name: part for one, part in zip(inputs, state, strict=True)}
            output, *state = session.run(None, {"samples": heard[:, :window], **feeds})
            heard = heard[:, hop:]
            outputs.append(output[0])
    return np.concatenate(outputs)


@pytest.mark.slow
def test_a_stream_is_that_of_the_encoder(make_encoder, tmp_path):
    encoder, wav = make_encoder(STREAMING), 0.1 * torch.randn(60_000)
    times = {"chunk_s": 0.32, "left_s": 0.64}
    path = write_onnx_stream(encoder, tmp_path / "stream.onnx", **times)
    expected = encoder.stream(**times).accept(wav)
    assert len(expected) == 88
    close(streamed(path, wav, 1600), expected)
    other = encoder.stream(chunk_s=0.32).accept(wav)
    assert (other - expected).abs().max() > 1e-3  # and this can fail


def wav2vec2_like(encoder, **sizes):
    """The encoder with a front end of valid convolutions, which looks ahead."""
    front_end = ValidConvolutions(80, channels=(640, 640), **sizes).eval()
    parts = encoder.features.compute_features, encoder.features.normalize
    return type(encoder)(*parts, front_end, encoder.transformer).eval()


def check_steps(encoder, left_s):
    """The module that is exported, against streams that begin at different times."""
    graph = StreamGraph(encoder, 0.16, left_s)

    def run(feeds):
        with torch.no_grad():
            return [one.numpy() for one in graph(*map(torch.from_numpy, feeds))]

    assert graph.disagreement(run) < 1e-5
    # And this can fail: with the windows of another place.
    assert graph.disagreement(lambda feeds: run([np.roll(feeds[0], 800, 1), *feeds[1:]])) > 1e-3


@pytest.mark.parametrize(
    ("spec", "left_s", "options"),
    [
        ("PoM", None, {"kernel_size": 5}),  # features beyond the chunk
        ("PoM + RelPosMHAXL", 0.32, {}),
        ("SummaryMixing", 0.0, {"positional_encoding": None}),
    ],
)
def test_a_step_is_that_of_the_encoder(make_encoder, spec, left_s, options):
    check_steps(make_encoder(spec, **options), left_s)


@pytest.mark.parametrize("sizes", [{}, {"kernel_sizes": (1, 1)}])
def test_steps_of_valid_convolutions(tiny_encoder, sizes):
    check_steps(wav2vec2_like(tiny_encoder, **sizes), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("PoM", {"encoder_module": "branchformer"}),
        ("PoM(degree=4, expand=1)", {"encoder_module": "transformer"}),
        ("PoM(variant='selective')", {"norm_type": "sentence"}),
        ("PoM(variant='frequency3')", {"feature_floor": "running"}),
        ("SummaryMixing(mode='lite')", {"positional_encoding": None}),
        ("SummaryMixing(layer_norm=True, activation='swish')", {"layers": "sum"}),
        ("Fastformer", {}),
        ("RelPosMHAXL", {}),
        ("PoM(variant='frequency2') + RelPosMHAXL", {}),
        ("regularMHA", {}),
        ("RoPEMHA", {}),
        ("hypermixing", {"kernel_size": 5}),
    ],
)
def test_every_mixer(make_encoder, tmp_path, spec, options):
    encoder = make_encoder(spec, num_layers=1 + ("+" in spec), **options)
    wavs = 0.1 * torch.randn(1, 20_000)  # SpeechBrain's Branchformer reads no less without lengths
    before = encoder(wavs)[0]
    write_onnx(encoder, tmp_path / "a.onnx")  # which compares
    assert torch.equal(encoder(wavs)[0], before)


@pytest.mark.slow
def test_other_front_ends(make_encoder, tmp_path):
    encoder = wav2vec2_like(make_encoder("PoM", num_layers=1))
    path = write_onnx(encoder, tmp_path / "a.onnx")
    facts = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert facts["min_samples"] == "960"
    encoder = make_encoder("SummaryMixing", num_layers=1)
    parts = encoder.features.compute_features, encoder.features.normalize
    speechbrain = type(encoder)(
        *parts, encoder.front_end, encoder.transformer, padding="speechbrain"
    ).eval()
    path = write_onnx(speechbrain, tmp_path / "b.onnx")
    facts = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert facts["min_samples"] == "640"  # two frames


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "left_s"),
    [
        ("PoM", None),
        ("PoM(degree=3, variant='frequency2')", 0.64),
        ("SummaryMixing", None),
        ("SummaryMixing + RelPosMHAXL", 0.32),
        ("Mamba(bidirectional=False)", None),
    ],
)
def test_every_stream(make_encoder, tmp_path, spec, left_s):
    encoder = make_encoder(spec, num_layers=1 + ("+" in spec))
    write_onnx_stream(encoder, tmp_path / "a.onnx", chunk_s=0.16, left_s=left_s)


def test_mixers_without_onnx_are_named(make_encoder, tmp_path):
    message = "an encoder with Mamba cannot become ONNX, which has no operator like speechbrain_pom"
    with pytest.raises(UserError, match=message):
        write_onnx(make_encoder("Mamba", num_layers=1), tmp_path / "mamba.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="Fastformer cannot stream: its softmaxes run over"):
        write_onnx_stream(make_encoder("Fastformer"), tmp_path / "fastformer.onnx")
    with pytest.raises(UserError, match=r"chunk_s is 0.04: the front end looks back 2 frames"):
        write_onnx_stream(make_encoder(kernel_size=5), tmp_path / "short.onnx", chunk_s=0.04)


@pytest.fixture
def untraced(monkeypatch):
    """Tracing and converting take no time, and give what has a name and a `save`."""

    class Program:
        graph_module = torch.fx.symbolic_trace(torch.nn.Identity())
        graph = graph_module.graph
        model = None
        written = b"not ONNX"

        def save(self, path):
            path.write_bytes(self.written)

    monkeypatch.setattr(onnx_files, "trace", lambda graph: Program())
    monkeypatch.setattr(torch.onnx, "export", lambda program, **_: program)
    monkeypatch.setattr(onnx_files, "_describe", lambda *_: None)
    return Program


@pytest.mark.usefixtures("untraced")
def test_what_does_not_become_onnx_leaves_no_file(tiny_encoder, tmp_path, monkeypatch):
    out = tmp_path / "a.onnx"
    with pytest.raises(UserError, match="onnxruntime cannot run an encoder with PoM: "):
        write_onnx(tiny_encoder, out)
    monkeypatch.setattr(WaveformGraph, "disagreement", lambda self, run: 2e-4)
    monkeypatch.setattr("speechbrain_pom.deploy.onnx_runs.run_of", lambda path: None)
    message = "does not agree with an encoder with PoM: a difference of 2.0e-04 where 0.0001 is"
    with pytest.raises(UserError, match=message):
        write_onnx(tiny_encoder, out)
    monkeypatch.setattr(WaveformGraph, "disagreement", lambda self, run: float("nan"))
    with pytest.raises(UserError, match="a difference of nan"):
        write_onnx(tiny_encoder, out)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(WaveformGraph, "disagreement", lambda self, run: 1e-5)
    assert write_onnx(tiny_encoder, out) == out
    with pytest.raises(UserError, match=r"a\.onnx' exists: replace it with --overwrite"):
        write_onnx(tiny_encoder, out)
    write_onnx(tiny_encoder, out, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write '.*b.onnx' \(.*\): give another place"):
        write_onnx(tiny_encoder, tmp_path / "file" / "b.onnx")

    def fail(*_, **__):
        raise RuntimeError("pages") from ValueError("no operator\nfor it")

    monkeypatch.setattr(torch.onnx, "export", fail)
    message = "an encoder with PoM cannot become ONNX: no operator for it"
    with pytest.raises(UserError, match=message):
        write_onnx(tiny_encoder, tmp_path / "c.onnx")


def test_differences():
    expected = torch.tensor([2.0, -torch.inf, 4.0])
    assert difference(np.float32([2.0, -np.inf, 6.0]), expected) == 0.5  # of the largest value
    assert difference(np.float32([0.5]), torch.tensor([0.25])) == 0.25
    for other in ([2.0, 0.0, 4.0], [2.0, -np.inf, np.nan], [2.0, -np.inf], [2.0, np.inf, 4.0]):
        assert difference(np.float32(other), expected) == np.inf
    assert difference(np.float64([2.0, -np.inf, 4.0]), expected) == np.inf
    assert difference(np.float32([-np.inf]), torch.tensor([-torch.inf])) == 0


def test_without_the_extra_it_is_named(tiny_encoder, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    without = {"onnxruntime", "onnxscript"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in without else found(name)
    )
    message = r'^ONNX needs onnxscript, onnxruntime: pip install "speechbrain-pom\[onnx\]"$'
    for write in (write_onnx, write_onnx_stream):
        with pytest.raises(UserError, match=message):
            write(tiny_encoder, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx", "--streaming"], "--streaming, --chunk_s and --left_s are of ONNX: give --onnx"),
        (["a.onnx", "--onnx", "--left_s", "1.28"], "--left_s without --streaming: give it too"),
        (["a.onnx", "--onnx", "--push", "org/name"], "--push and --private are of folders"),
        (["folder", "--onnx"], "'folder' is to be an ONNX file: give a name that ends in .onnx"),
        (["there.onnx", "--format", "onnx"], "there.onnx' exists: replace it with --overwrite"),
        (["a.onnx", "--onnx", "--streaming", "--chunk_s", "0.3"], "chunk_s is 0.3: give a multip"),
    ],
)
def test_bad_calls(finetuned_run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(finetuned_run), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
