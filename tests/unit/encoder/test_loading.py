"""Models from disk: which checkpoint, which architecture, and every refusal."""

import os
import pickle
import re
import shutil

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import Checkpointer

import speechbrain_pom
from speechbrain_pom.encoder.architecture import checked_architecture
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.encoder.weights import strict_load
from speechbrain_pom.inference import load_encoder, load_recogniser
from speechbrain_pom.nnet.polynomial import PUBLISHED_NAMES
from speechbrain_pom.runs.metrics import Metric, TaskMetrics, store_metrics
from speechbrain_pom.utils.errors import UserError

# The layout of SpeechBrain's BEST-RQ recipe: its keys, files and normalisation.
SPEECHBRAIN_YAML = """
data_folder: !PLACEHOLDER
output_folder: {folder}
d_model: 16
activation: !name:torch.nn.GELU
CNN: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    input_shape: (8, 10, 80)
    num_blocks: 2
    num_layers_per_block: 1
    out_channels: (4, 32)
    kernel_sizes: (3, 3)
    strides: (2, 2)
    residuals: (False, False)
Transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    input_size: 640
    tgt_vocab: 30
    d_model: !ref <d_model>
    nhead: 2
    num_encoder_layers: 2
    num_decoder_layers: 0
    d_ffn: 32
    activation: !ref <activation>
    conformer_activation: !ref <activation>
    encoder_module: conformer
    attention_type: {attention_type}
    normalize_before: True
    causal: False
wrapper: !new:speechbrain.lobes.models.transformer.TransformerASR.EncoderWrapper
    transformer: !ref <Transformer>
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: 16000
    n_fft: 400
    n_mels: 80
normalize: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
model: !new:torch.nn.ModuleList
    - [!ref <CNN>, !ref <wrapper>]
"""


@pytest.fixture
def wavs():
    return 0.1 * torch.randn(2, 8000)


def refusal(path, load=load_encoder, **options):
    with pytest.raises(UserError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same(first, second):
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[1][key], tensor) for key, tensor in states[0].items())


def write_speechbrain_run(folder, attention_type):
    """What SpeechBrain's own recipe and Checkpointer leave."""
    torch.manual_seed(4)
    folder.mkdir()
    text = SPEECHBRAIN_YAML.format(folder=folder, attention_type=attention_type)
    (folder / "hyperparams.yaml").write_text(text.replace("!PLACEHOLDER", "/data"))
    hparams = load_hyperpyyaml(text, {"data_folder": "/data"})
    saved = {key: hparams[key] for key in ("model", "normalize")}
    checkpoint = Checkpointer(folder / "save", saved).save_checkpoint(meta={"loss": 1.0})
    return hparams, checkpoint.path


def test_a_run_its_checkpoint_and_the_checkpoint_alone(tmp_path, make_run, wavs):
    checkpoint = make_run(tmp_path / "run", seed=5)
    expected, _ = load_encoder(tmp_path / "run")(wavs)
    shutil.copytree(checkpoint, tmp_path / "taken_away")
    for path in (checkpoint, str(checkpoint), tmp_path / "taken_away", tmp_path / "run/save"):
        encoder = speechbrain_pom.load_encoder(path)
        assert not encoder.training
        assert torch.equal(encoder(wavs)[0], expected)


def test_the_encoder_is_the_one_that_was_trained(tmp_path, make_run, wavs):
    """The modules of the run's own hparams file, called as the recipe does, give the same."""
    make_run(tmp_path / "run", seed=5, attention_type="PoM(degree=3) + RelPosMHAXL")
    encoder = load_encoder(tmp_path / "run")
    text = (tmp_path / "run/hyperparams.yaml").read_text()
    hparams = load_hyperpyyaml(text)
    hparams["checkpointer"].recover_if_possible()
    trained = hparams["encoder"].eval()
    feats, num_frames = trained.features(wavs, torch.tensor([8000, 8000]))
    expected, _ = trained.encode(feats, num_frames)
    assert torch.allclose(encoder(wavs)[0], expected, atol=1e-6)


def test_newest_of_pretraining_and_best_of_fine_tuning(tmp_path, make_run):
    for seed in (1, 2):
        make_run(tmp_path / "pretraining", seed=seed)
    make_run(tmp_path / "other", seed=2)
    newest, second = (load_encoder(tmp_path / run) for run in ("pretraining", "other"))
    assert same(newest, second)
    make_run(tmp_path / "first", seed=1)
    assert not same(newest, load_encoder(tmp_path / "first"))
    for seed, wer in ((1, 30.0), (2, 40.0)):
        make_run(tmp_path / "finetuning", "ctc", seed=seed, meta={"wer": wer})
    make_run(tmp_path / "best", "ctc", seed=1)
    assert same(*(load_recogniser(tmp_path / run) for run in ("finetuning", "best")))
    # What is best is what the run declares, in its direction.
    highest = TaskMetrics("mine", (Metric("score", better="higher"),), best="score")
    for seed, score in ((3, 0.5), (4, 0.9), (5, 0.7)):
        make_run(tmp_path / "pretraining", seed=seed, meta={"score": score})
    store_metrics(tmp_path / "pretraining", highest)
    make_run(tmp_path / "highest", seed=4)
    assert same(*(load_encoder(tmp_path / run) for run in ("pretraining", "highest")))


def test_the_newest_by_its_own_clock_and_complete(tmp_path, make_run):
    newest = make_run(tmp_path / "run", seed=2)
    make_run(tmp_path / "run", seed=3)
    folder = newest.parent
    for number, (path, unixtime) in enumerate(((newest, 30.0), (find_saved(folder)[0], 20.0))):
        (path / "CKPT.yaml").write_text(f"unixtime: {unixtime}\n", encoding="utf-8")
        (path / "checksums.json").unlink()
        path.rename(folder / f"CKPT+{9 - number}")
    for name in ("CKPT.yaml", "model.ckpt", "normalize.ckpt"):
        shutil.copytree(folder / "CKPT+9", folder / f"CKPT+{name}")
        (folder / f"CKPT+{name}" / name).unlink()
    for path in (tmp_path / "run", folder, folder / "CKPT+9"):
        assert find_saved(path).checkpoint == folder / "CKPT+9"


@pytest.mark.parametrize("attention_type", ["RelPosMHAXL", "PoM"])
def test_a_run_of_speechbrains_recipe(tmp_path, wavs, attention_type):
    hparams, checkpoint = write_speechbrain_run(tmp_path / "run", attention_type)
    encoder = load_encoder(tmp_path / "run")
    hparams["model"].eval()
    feats = hparams["normalize"](hparams["compute_features"](wavs), torch.ones(2))
    feats = torch.nn.functional.pad(feats, (0, 0, 0, -feats.shape[1] % 4))
    expected = hparams["wrapper"](hparams["CNN"](feats), torch.ones(2))
    assert torch.allclose(encoder(wavs)[0], expected, atol=1e-5)
    # A checkpoint folder together with its hparams file
    shutil.copytree(checkpoint, tmp_path / "alone")
    given = tmp_path / "BEST-RQ.yaml"
    given.write_text(SPEECHBRAIN_YAML.format(folder="x", attention_type=attention_type))
    again = load_encoder(tmp_path / "alone", hparams_file=given)
    assert torch.equal(again(wavs)[0], encoder(wavs)[0])
    assert "has no hyperparams.yaml: give the run's by hparams_file" in refusal(tmp_path / "alone")


def test_published_parameter_names(tmp_path, wavs):
    _, checkpoint = write_speechbrain_run(tmp_path / "run", "PoM")
    expected, _ = load_encoder(tmp_path / "run")(wavs)
    state = torch.load(checkpoint / "model.ckpt", weights_only=True)
    ours_to_published = {
        ours: published
        for published, ours in PUBLISHED_NAMES.items()
        if not published.endswith(("_hf.", "_bf.", "_1.", "_2.", "_3."))
    }
    renamed = {}
    for key, tensor in state.items():
        head, mixer, name = key.partition(".mha_layer.")
        for ours, published in ours_to_published.items():
            if mixer and name.startswith(ours):
                key = head + mixer + published + name.removeprefix(ours)
        renamed[key] = tensor
    assert any(".mh_pom.po_proj." in key for key in renamed)
    torch.save(renamed, checkpoint / "model.ckpt")
    assert torch.equal(load_encoder(tmp_path / "run")(wavs)[0], expected)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            {"d_model": 24},
            ["another width (d_model, d_ffn, channels)?", "is [16], the model's [24]", "more"],
        ),
        (
            {"num_encoder_layers": 3},
            [
                "another number of layers (saved with 1 fewer)?",
                "missing: 1.transformer.encoder.lay",
            ],
        ),
        (
            {"num_encoder_layers": 1},
            ["another number of layers (saved with 1 more)?", "left over: 1.transformer.encoder.l"],
        ),
        (
            {"attention_type": "regularMHA"},
            ["another attention_type?", "missing: ", "left over: ", "mha_layer.poly_proj", "more"],
        ),
        (
            {"attention_type": "PoM(degree=3)"},
            ["other options of attention_type", "poly_proj.0.weight is [64, 16], the model's [96,"],
        ),
    ],
)
def test_every_mismatch_is_one_line(tmp_path, make_run, overrides, messages):
    checkpoint = make_run(tmp_path / "run")
    make_run(tmp_path / "other", **overrides)
    (checkpoint / "checksums.json").unlink()
    found = refusal(checkpoint, hparams_file=tmp_path / "other/hyperparams.yaml")
    assert found.startswith(f"{checkpoint}/model.ckpt does not fit its hparams file, ")
    for message in messages:
        assert message in found


def test_weights_that_a_module_refuses_by_itself():
    class Refusing(torch.nn.Linear):
        def _load_from_state_dict(self, *_):
            raise RuntimeError("out\nof zebras")

    with pytest.raises(UserError, match=r"^a\.ckpt cannot be loaded: out of zebras$"):
        strict_load(Refusing(1, 1), {}, "a.ckpt")


def test_a_file_of_another_model(tmp_path, make_run):
    checkpoint = make_run(tmp_path / "run")
    (checkpoint / "checksums.json").unlink()
    torch.save({"weight": torch.zeros(2)}, checkpoint / "model.ckpt")
    assert "or is no file of such a model? missing: 0.conv" in refusal(checkpoint)
    state = load_encoder(make_run(tmp_path / "again")).state_dict()
    del state["features.mean"]
    torch.save({f"0.{key}": tensor for key, tensor in state.items()}, checkpoint / "model.ckpt")
    assert "does not fit its hparams file" in refusal(checkpoint)


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.ckpt", "normalize.ckpt", "head.ckpt"])
def test_a_malicious_pickle(tmp_path, make_run, name):
    checkpoint = make_run(tmp_path / "run", "ctc")
    (checkpoint / "checksums.json").unlink()
    for content in (pickle.dumps(Evil(tmp_path / "owned")), None):
        if content is None:
            torch.save({"weight": Evil(tmp_path / "owned")}, checkpoint / name)
        else:
            (checkpoint / name).write_bytes(content)
        message = refusal(tmp_path / "run", load_recogniser)
        assert message.startswith(f"{checkpoint / name} is damaged or no file of tensors (")
        assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "evil",
    [
        "!apply:os.mkdir [{path}]",
        "!new:os.mkdir [{path}]",
        "!name:os.mkdir",
        "!new:speechbrain.inference.ASR.EncoderASR",
        "!new:torch.nn.functional.gelu",
        "!applyref:os.mkdir [{path}]",
        "!include:other.yaml",
        "!!python/object/apply:os.mkdir [{path}]",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [{path}]",
    ],
)
def test_a_malicious_hparams_file(tmp_path, make_run, evil):
    checkpoint = make_run(tmp_path / "run")
    text = (checkpoint / "hyperparams.yaml").read_text()
    given = tmp_path / "evil.yaml"
    evil = evil.format(path=tmp_path / "owned")
    # In a section that is not needed it is never looked at; in the others it is refused.
    given.write_text(f"innocent: {evil}\n{text}")
    if evil.startswith(("!applyref", "!include")):
        assert f"has {evil.partition(' ')[0]}, which runs in reading: give the" in refusal(
            checkpoint, hparams_file=given
        )
    else:
        load_encoder(checkpoint, hparams_file=given)
    given.write_text(text.replace("causal: false", f"causal: {evil}", 1))
    message = refusal(checkpoint, hparams_file=given)
    assert "from a saved model only torch modules are made" in message or "in reading" in message
    assert not (tmp_path / "owned").exists()


def test_a_malicious_tag_would_run(tmp_path):
    """The loader of HyperPyYAML makes any Python object: only the check stands before it."""
    load_hyperpyyaml(f"head: !!python/object/apply:os.mkdir [{tmp_path / 'owned'}]")
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "the architecture is no YAML: while parsing"),
        ("[1]", "has no sections, such as"),
        ("head: {? !!python/name:os.mkdir : 1}", "head has !!python/name:os.mkdir: from a saved"),
        ("!!python/name:os.mkdir : 1", "has !!python/name:os.mkdir: from a saved"),
    ],
)
def test_an_architecture_that_is_none(text, message):
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        checked_architecture(text, "config.json")


def test_damage_and_what_is_not_there(tmp_path, make_run, pretrained_run):
    checkpoint = make_run(tmp_path / "run")
    (checkpoint / "model.ckpt").write_bytes(b"half")
    message = refusal(tmp_path / "run")
    assert "is damaged (model.ckpt has 4 bytes of" in message
    assert message.endswith("): choose another checkpoint")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "holds no CKPT.yaml, model.ckpt, normalize.ckpt: give a run's" in refusal(folder)
    assert f"'{tmp_path}/none' does not exist: give" in refusal(tmp_path / "none")
    assert "has no CTC head: give a run of train_ctc.py" in refusal(pretrained_run, load_recogniser)
    given = tmp_path / "a.yaml"
    given.write_text("lr: 0.1\n")
    newest = next((pretrained_run / "save").glob("CKPT+*"))
    message = refusal(newest, hparams_file=given)
    assert "has no compute_features, CNN, Transformer, normalize: an encoder's hparams" in message
    given.write_text("lr: !ref <rate>\n")
    assert "a.yaml cannot be resolved: " in refusal(newest, hparams_file=given)


def test_a_fine_tuned_checkpoint_without_its_run(tmp_path, make_run):
    checkpoint = make_run(tmp_path / "run", "ctc")
    shutil.copytree(checkpoint, tmp_path / "alone")
    load_encoder(tmp_path / "alone")
    message = refusal(tmp_path / "alone", load_recogniser)
    assert "is not in its run's folder, where its units are: give the run" in message
    shutil.rmtree(tmp_path / "run/units")
    assert "units holds no units: units.json is missing" in refusal(
        tmp_path / "run", load_recogniser
    )


def test_statistics_that_are_missing(tmp_path, make_run):
    checkpoint = make_run(tmp_path / "run")
    (checkpoint / "checksums.json").unlink()
    state = {"count": 0, "glob_mean": torch.empty(0), "glob_std": torch.empty(0)}
    torch.save(state, checkpoint / "normalize.ckpt")
    assert "has no statistics of the features, and the hparams file says" in refusal(checkpoint)


@pytest.mark.parametrize("content", [b"", b"half a file", pickle.dumps([1, 2], 2), "cut"])
@pytest.mark.parametrize("name", ["model.ckpt", "normalize.ckpt"])
def test_damaged_files_without_checksums(tmp_path, make_run, name, content):
    path = make_run(tmp_path / "run") / name
    path.with_name("checksums.json").unlink()
    path.write_bytes(path.read_bytes()[:1000] if content == "cut" else content)
    assert f"{path} is damaged or no file of tensors (" in refusal(tmp_path / "run")


def test_an_architecture_that_cannot_be_built(tmp_path, make_run):
    checkpoint = make_run(tmp_path / "run")
    given = tmp_path / "a.yaml"
    text = (checkpoint / "hyperparams.yaml").read_text()
    given.write_text(text.replace("num_blocks: 2", "num_bloks: 2"))
    assert "a.yaml: the model cannot be built: " in refusal(checkpoint, hparams_file=given)


def test_the_learnt_sum_of_a_fine_tuned_model(tmp_path, make_run, wavs):
    checkpoint = make_run(tmp_path / "run", "ctc", weighted_sum=True)
    (checkpoint / "checksums.json").unlink()
    torch.save({"scores": torch.tensor([0.0, 1.0, 2.0])}, checkpoint / "layer_sum.ckpt")
    encoder = load_encoder(checkpoint)
    assert encoder.layers == "sum"
    assert torch.equal(encoder.layer_sum.scores.detach(), torch.tensor([0.0, 1.0, 2.0]))
    assert load_encoder(checkpoint, layers="last").layers == "last"
    assert torch.equal(load_recogniser(tmp_path / "run").encoder(wavs)[0], encoder(wavs)[0])


def test_device_and_dtype(pretrained_run):
    encoder = load_encoder(pretrained_run, device="cpu", dtype=torch.float64)
    assert encoder.dtype == torch.float64
    assert encoder.features.mean.dtype == torch.float32
    assert "dtype is 'fp16': give a torch.dtype of floats" in refusal(pretrained_run, dtype="fp16")


def test_loading_leaves_the_random_state_alone(pretrained_run):
    before = torch.get_rng_state()
    load_encoder(pretrained_run)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_recogniser(tmp_path, finetuned_run, wavs):
    recogniser = load_recogniser(finetuned_run)
    log_probs, num_frames = recogniser(wavs, torch.tensor([8000, 3001]))
    assert log_probs.shape == (2, 13, 29)
    assert num_frames.tolist() == [13, 5]
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2, 13), atol=1e-5)
    assert (log_probs[1, 5:, 0] == 0).all()
    assert (log_probs[1, 5:, 1:] == -torch.inf).all()
    alone, _ = recogniser(wavs[1:, :3001])
    assert torch.allclose(log_probs[1, :5], alone[0], atol=1e-5)


@pytest.mark.parametrize("spec", ["PoM", "regularMHA"])
@pytest.mark.parametrize("padding", ["exact", "speechbrain"])
def test_a_model_is_loaded_with_the_padding_of_its_training(
    make_run, tmp_path, caplog, spec, padding
):
    make_run(tmp_path / "run", attention_type=spec, padding=padding)
    encoder = load_encoder(tmp_path / "run")
    wavs = torch.randn(2, 16000)
    batched, (_, number) = encoder(wavs, torch.tensor([16000, 5000]))
    alone, _ = encoder(wavs[1:, :5000])
    error = (batched[1, :number] - alone[0]).abs().max() / alone.abs().max()
    says_so = "padding is speechbrain, as in its training: what an utterance gets" in caplog.text
    assert says_so == (padding == "speechbrain") == bool(error > 1e-4)


@pytest.mark.parametrize("spec", ["PoM", "regularMHA"])
def test_a_run_that_does_not_say_what_it_made_of_padding(make_run, tmp_path, caplog, spec):
    checkpoint = make_run(tmp_path / "run", attention_type=spec)
    for file in (checkpoint / "hyperparams.yaml", tmp_path / "run/hyperparams.yaml"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if not line.strip().startswith("padding:")))
        (checkpoint / "checksums.json").unlink(missing_ok=True)
    assert load_encoder(tmp_path / "run").padding == "exact"
    says_so = "does not say what it made of padding" in caplog.text
    assert says_so == (spec == "regularMHA")  # one of this package was always exact


def test_a_model_is_loaded_with_the_floor_of_its_features(make_run, tmp_path):
    make_run(tmp_path / "run")
    assert load_encoder(tmp_path / "run").features.floor == "utterance"
    text = (tmp_path / "run" / "hyperparams.yaml").read_text()
    named = re.sub(r"(\n +feature_floor:) utterance", r"\1 running", text)
    (tmp_path / "running.yaml").write_text(named)
    encoder = load_encoder(tmp_path / "run", hparams_file=tmp_path / "running.yaml")
    assert encoder.features.floor == "running"
