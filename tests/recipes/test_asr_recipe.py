"""Supervised recognition with SpeechBrain's own recipe: encoder, decoder, joint decoding.

With `SPEECHBRAIN_CHECKOUT` its files are run, and else a recipe of the same blocks and keys.
"""

import os
import re
from pathlib import Path

import pytest
import sentencepiece
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import read_audio
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.nnet import PolynomialMixer, SummaryMixing
from tests.helpers import ROOT

OWN = ROOT / "tests/data/asr_recipe"
CHECKOUT = os.environ.get("SPEECHBRAIN_CHECKOUT")
THEIRS = Path(CHECKOUT or "no-checkout", "recipes/LibriSpeech/ASR/transformer")
SPECS = {
    "PoM": (PolynomialMixer, {"degree": 2}),
    "SummaryMixing(local_proj_hid_dim=16, local_proj_out_dim=16)": (
        SummaryMixing,
        {"mode": "full"},
    ),
    "SummaryMixing('lite')": (SummaryMixing, {"mode": "lite"}),
}
CASES = list(zip(("conformer", "branchformer", "conformer"), SPECS, strict=True))
CHECKOUT_CASES = [
    (name, spec)
    for name in ("conformer_small", "conformer_large", "branchformer_large")
    for spec in SPECS
]
NUM_PIECES = 40
LM = {"d_model": 16, "nhead": 2, "num_encoder_layers": 1, "d_ffn": 32}
SIZES = {"d_model": 16, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 1}
TINY = {
    **SIZES,
    "output_neurons": NUM_PIECES,
    "number_of_epochs": 1,
    "num_workers": 0,
    "max_batch_length_train": 20,
    "num_bucket": 2,
    "valid_search_interval": 1,
    "valid_beam_size": 2,
    "test_beam_size": 3,
    "max_decode_ratio": 0.2,
    "lr_adam": 0.5,  # at the first steps of the warm-up, about 1e-4
    "device": "cpu",
    **{f"lm_model.{key}": value for key, value in LM.items()},
}


@pytest.fixture(scope="module")
def manifests(corpus, tmp_path_factory):
    splits = ["train-clean-100", "dev-clean", "test-clean"]
    folder = tmp_path_factory.mktemp("asr_csv")
    return prepare_librispeech(corpus, splits, folder, num_workers=1, show_progress=False)


@pytest.fixture(scope="module")
def language_model(manifests, tmp_path_factory):
    """A folder with what the recipes would fetch from a hub: a language model and its tokenizer."""
    folder = tmp_path_factory.mktemp("lm")
    texts = [row["wrd"] for path in manifests.values() for row in read_manifest(path).values()]
    with open(folder / "tokenizer.ckpt", "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=stream,
            vocab_size=NUM_PIECES,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    torch.manual_seed(0)
    model = TransformerLM(NUM_PIECES, num_decoder_layers=0, dropout=0.0, **LM)
    torch.save(model.state_dict(), folder / "lm.ckpt")
    return folder


def build(yaml, folder, **changes):
    """What the hparams file of a run, or that file with other types, builds."""
    overrides = {"output_folder": str(folder), **changes}
    with open(yaml, encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, overrides)


def run_recipe(programs, recipe, name, spec, folder, corpus, manifests, lm):
    size = "csgu_linear_units" if name.startswith("branchformer") else "d_ffn"
    tests = [str(manifests["test-clean"])]
    options = {
        **TINY,
        size: 32,
        "attention_type": spec,
        "data_folder": corpus,
        "output_folder": folder,
        "pretrained_lm_tokenizer_path": lm,
        "train_csv": manifests["train-clean-100"],
        "valid_csv": manifests["dev-clean"],
        "test_csv": f"[{', '.join(tests)}]",
        "skip_prep": True,
    }
    yaml = recipe / f"hparams/{name}.yaml"
    yaml = yaml if yaml.is_file() else recipe / f"{name}.yaml"
    words = [f"--{key}={value}" for key, value in options.items()]
    command = ["-m", "speechbrain_pom", "run", recipe / "train.py", yaml, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = programs.run([*command, "--noprogressbar"], cwd=folder.parent, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def hypotheses(path):
    """{utterance: what was recognised} of SpeechBrain's file of alignments, and the count in it."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^([\w-]+), %WER.*\n.*\n.*\n(.*)$", text, re.MULTILINE)
    words = {key: [word.strip() for word in line.split(";")] for key, line in blocks}
    return {key: [word for word in line if word != "<eps>"] for key, line in words.items()}


def check_run(folder, spec, corpus, manifests):
    """Mixers in the encoder, the decoder as it is with attention, and the joint search."""
    mixer_class, facts = SPECS[spec]
    start = build(folder / "hyperparams.yaml", folder)
    trained = build(folder / "hyperparams.yaml", folder)
    plain = build(
        folder / "hyperparams.yaml", folder, Transformer={"attention_type": "RelPosMHAXL"}
    )
    layers = trained["Transformer"].encoder.layers
    assert len(layers) == SIZES["num_encoder_layers"]
    for layer in layers:
        assert type(layer.mha_layer) is mixer_class
        assert {name: getattr(layer.mha_layer, name) for name in facts} == facts
    (checkpoint,) = (folder / "save").glob("CKPT+*")
    weights = torch.load(checkpoint / "model.ckpt", weights_only=True)
    trained["model"].load_state_dict(weights)
    same = trained["Transformer"].encoder.state_dict()
    for name, value in start["Transformer"].encoder.state_dict().items():
        assert not torch.equal(value, same[name]) or ".mha_layer." not in name, (
            f"{name} is as it was"
        )

    theirs = plain["Transformer"].decoder
    assert str(trained["Transformer"].decoder) == str(theirs)
    theirs.load_state_dict(trained["Transformer"].decoder.state_dict())
    plain["Transformer"].custom_tgt_module.load_state_dict(
        trained["Transformer"].custom_tgt_module.state_dict()
    )
    tokens, encoded = torch.randint(1, NUM_PIECES, (2, 7)), torch.randn(2, 13, SIZES["d_model"])
    lengths = torch.tensor([13, 9])
    outputs = [
        found["Transformer"].eval().decode(tokens, encoded, lengths)[0]
        for found in (trained, plain)
    ]
    torch.testing.assert_close(*outputs)
    check_search(trained, folder, checkpoint, manifests, corpus)


def check_search(trained, folder, checkpoint, manifests, corpus):
    """What the run wrote is what its checkpoint gives with both scorers, and depends on each."""
    trained["pretrainer"].collect_files()
    trained["pretrainer"].load_collected()
    trained["normalize"]._load(checkpoint / "normalizer.ckpt", end_of_epoch=True)
    trained["model"].eval()
    trained["lm_model"].eval()
    written = hypotheses(next(folder.glob("wer_*.txt")))
    rows = read_manifest(manifests["test-clean"])
    assert set(written) == set(rows)
    search, key = trained["test_search"], max(rows, key=lambda key: rows[key]["duration"])
    assert set(search.scorer.full_scorers) == {"ctc", "transformerlm"}
    wav = rows[key]["wav"].replace("$data_root", str(corpus))
    lengths = torch.ones(1)
    with torch.no_grad():
        feats = trained["compute_features"](read_audio(wav).unsqueeze(0))
        feats = trained["normalize"](feats, lengths, epoch=9)
        encoded = trained["Transformer"].encode(trained["CNN"](feats), lengths)
        found, _, score, _ = search(encoded, lengths)
        assert trained["tokenizer"].decode_ids(found[0]).split(" ") == written[key]
        for scorer in ("ctc", "transformerlm"):
            weight = search.scorer.weights[scorer]
            search.scorer.weights[scorer] = 0.0
            assert not torch.equal(search(encoded, lengths)[2], score), f"{scorer} has no effect"
            search.scorer.weights[scorer] = weight


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_trained_and_decoded_jointly(
    name, spec, programs, corpus, manifests, language_model, tmp_path
):
    folder = tmp_path / "run"
    run_recipe(programs, OWN, name, spec, folder, corpus, manifests, language_model)
    check_run(folder, spec, corpus, manifests)


@pytest.mark.skipif(not CHECKOUT, reason="set SPEECHBRAIN_CHECKOUT to a checkout of SpeechBrain")
@pytest.mark.parametrize(("name", "spec"), CHECKOUT_CASES)
def test_the_recipe_of_a_checkout(
    name, spec, programs, corpus, manifests, language_model, tmp_path
):
    folder = tmp_path / "run"
    run_recipe(programs, THEIRS, name, spec, folder, corpus, manifests, language_model)
    check_run(folder, spec, corpus, manifests)
