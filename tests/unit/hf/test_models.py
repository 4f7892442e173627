"""transformers' classes give what `load_encoder` and `load_recogniser` give."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from speechbrain_pom.ctc.decoding import greedy_decode
from speechbrain_pom.ctc.tokenizers import SentencePieceUnits
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.inference import load_encoder, load_recogniser
from speechbrain_pom.reports.export import export_model
from speechbrain_pom.utils.errors import UserError

transformers = pytest.importorskip("transformers", reason="the extra [hf] is not installed")
hf = pytest.importorskip("speechbrain_pom.hf")

LENGTHS = [399, 10000, 16000, 1]  # samples: the first and the last are one frame


@pytest.fixture(scope="module")
def exports(tmp_path_factory, pretrained_run, finetuned_run):
    """Folders of an encoder and of a recogniser."""
    folder = tmp_path_factory.mktemp("exports")
    for name, run in (("encoder", pretrained_run), ("recogniser", finetuned_run)):
        export_model(find_saved(run), folder / name, form="transformers")
    return folder


@pytest.fixture
def batch():
    wavs = [0.1 * torch.randn(length) for length in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    # What is in padding is never read.
    mask = torch.arange(padded.shape[1]) < torch.tensor(LENGTHS)[:, None]
    return padded.masked_fill(~mask, 7.0), mask.long()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@torch.no_grad()
def test_frames_and_hidden_states(exports, pretrained_run, batch):
    model = transformers.AutoModel.from_pretrained(exports / "encoder")
    assert type(model) is hf.PoMSpeechModel
    assert not model.training
    encoder = load_encoder(pretrained_run)
    output = model(batch[0], attention_mask=batch[1], output_hidden_states=True)
    frames, num_frames = encoder(batch[0], torch.tensor(LENGTHS))
    close(output.last_hidden_state, frames)
    states, _ = encoder(batch[0], torch.tensor(LENGTHS), layers=[0, 1, 2])
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1 == 3
    for ours, theirs in zip(output.hidden_states, states, strict=True):
        close(ours, theirs)
    plain = model(batch[0], attention_mask=batch[1])
    close(plain.last_hidden_state, frames)
    assert plain.hidden_states is None
    close(model(batch[0][2:3], return_dict=False)[0], encoder(batch[0][2:3])[0])
    mask = model._get_feature_vector_attention_mask(frames.shape[1], batch[1])
    assert mask.sum(1).tolist() == num_frames.tolist()


@torch.no_grad()
def test_log_probs(exports, finetuned_run, batch):
    model = transformers.AutoModelForCTC.from_pretrained(exports / "recogniser")
    recogniser = load_recogniser(finetuned_run)
    log_probs, _ = recogniser(batch[0], torch.tensor(LENGTHS))
    close(model(batch[0], attention_mask=batch[1]).logits, log_probs)
    close(model(batch[0]).logits, recogniser(batch[0])[0])
    encoder = transformers.AutoModel.from_pretrained(exports / "recogniser")
    frames, _ = load_encoder(finetuned_run)(batch[0], torch.tensor(LENGTHS))
    close(encoder(*batch).last_hidden_state, frames)


def test_all_other_doors_open_too(exports, finetuned_run, batch):
    """The same folder is an export of this package and of SpeechBrain."""
    lengths = torch.tensor(LENGTHS)
    with torch.no_grad():
        expected = load_recogniser(finetuned_run)(batch[0], lengths)[0]
        assert torch.equal(load_recogniser(exports / "recogniser")(batch[0], lengths)[0], expected)
        frames = load_encoder(finetuned_run)(batch[0], lengths)[0]
        assert torch.equal(load_encoder(exports / "recogniser")(batch[0], lengths)[0], frames)
    from speechbrain.inference.ASR import EncoderASR
    from speechbrain.inference.encoders import WaveformEncoder

    source = str(exports / "recogniser")
    asr = EncoderASR.from_hparams(source=source)
    close(asr.encode_batch(batch[0][1:3, :10000], torch.ones(2)), expected_of(source, batch))
    encoder = WaveformEncoder.from_hparams(source=source, hparams_file="encoder.yaml")
    assert encoder.encode_batch(batch[0][1:2], torch.ones(1))["embeddings"].shape[-1] == 16


@torch.no_grad()
def expected_of(source, batch):
    return load_recogniser(source)(batch[0][1:3, :10000], torch.ones(2))[0]


def test_features_of_the_model_stay_in_fp32(exports, pretrained_run, batch):
    model = transformers.AutoModel.from_pretrained(exports / "encoder", dtype=torch.bfloat16)
    assert model.encoder.dtype == torch.bfloat16
    encoder = load_encoder(pretrained_run, dtype=torch.bfloat16)
    for module in (model.encoder, encoder):
        assert {tensor.dtype for tensor in module.features.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        frames, _ = encoder(batch[0], torch.tensor(LENGTHS))
        ours = model(batch[0], attention_mask=batch[1]).last_hidden_state
    assert torch.equal(ours, frames)


def test_extractor_tokenizer_and_pipeline(exports, finetuned_run):
    folder = exports / "recogniser"
    extract = transformers.AutoFeatureExtractor.from_pretrained(folder)
    wavs = [np.random.default_rng(0).normal(size=n).astype("float32") for n in (500, 9000)]
    batch = extract(wavs, sampling_rate=16000, padding=True, return_tensors="pt")
    assert batch["input_values"].shape == (2, 9000)
    assert np.array_equal(batch["input_values"][0, :500], wavs[0])
    assert batch["attention_mask"].sum(1).tolist() == [500, 9000]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    units = load_recogniser(finetuned_run).units
    assert tokenizer("HELLO THERE").input_ids == units.encode("HELLO THERE")
    assert tokenizer.pad_token_id == 0
    model = transformers.AutoModelForCTC.from_pretrained(folder)
    with torch.no_grad():
        log_probs, _ = load_recogniser(finetuned_run)(torch.as_tensor(wavs[1])[None])
        logits = model(**batch).logits
    (expected,) = greedy_decode(log_probs, torch.ones(1), units)
    assert tokenizer.batch_decode(logits.argmax(-1))[1] == expected
    assert expected
    recognise = transformers.pipeline(
        "automatic-speech-recognition", model, tokenizer=tokenizer, feature_extractor=extract
    )
    assert recognise(wavs[1])["text"] == expected


def test_pieces(make_run, tmp_path):
    make_run(tmp_path / "run", "ctc", tokenizer="bpe", num_pieces=12)
    units = SentencePieceUnits.train(["ONE TWO", "TWO ONE ONE"], num_pieces=12)
    units.save(tmp_path / "run" / "units")
    paths = export_model(find_saved(tmp_path / "run"), tmp_path / "out", form="transformers")
    names = {path.name for path in paths}
    assert {"config.json", "model.safetensors", "pieces.model"} < names
    assert "encoder.safetensors" not in names
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    labels = units.encode("TWO ONE")
    assert tokenizer("TWO ONE").input_ids == labels
    blanks = [label for one in labels for label in (one, one, 0)]
    assert tokenizer.decode(blanks) == "TWO ONE"
    assert tokenizer.decode(labels, group_tokens=False) == "TWO ONE"
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize("TWO ONE")) == "TWO ONE"
    assert len(tokenizer.get_vocab()) == 12
    tokenizer.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(
        tmp_path / "again", config=transformers.AutoConfig.from_pretrained(tmp_path / "out")
    )
    assert again("TWO").input_ids == units.encode("TWO")
    with pytest.raises(UserError, match=r"filename_prefix is 'a': the files keep their names"):
        tokenizer.save_vocabulary(tmp_path, "a")
    with pytest.raises(UserError, match=r"'b/pieces.model' is not beside '"):
        hf.PoMSpeechTokenizer(str(tmp_path / "out" / "units.json"), "b/pieces.model")


def test_a_head_is_fine_tuned(exports, batch, tmp_path):
    """From a pretrained encoder, by transformers' rules; saved and loaded again."""
    load = transformers.AutoModelForCTC.from_pretrained
    with pytest.raises(UserError, match=r"no CTC head and vocab_size is not given"):
        load(exports / "encoder")
    model = load(exports / "encoder", vocab_size=11).train()
    assert 0 < float(model.head.weight.std()) < 0.1
    assert not model.head.bias.any()
    labels = torch.tensor([[-100, -100], [3, 4], [10, -100], [-100, -100]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        output = model(*batch, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
        optimizer.step()
        losses.append(float(output.loss))
    assert losses[-1] < 0.7 * losses[0]
    model.eval().save_pretrained(tmp_path / "tuned")
    assert "encoder.features.mean" in model.state_dict()
    again = load(tmp_path / "tuned")
    with torch.no_grad():
        assert torch.equal(again(*batch).logits, model(*batch).logits)
    model.config.ctc_loss_reduction = "sum"
    assert float(model(*batch, labels=labels).loss) > 2 * losses[-1]
    model.config.ctc_loss_reduction = "none"
    with pytest.raises(UserError, match=r"ctc_loss_reduction is 'none': choose mean or sum"):
        model(*batch, labels=labels)
    model.config.ctc_loss_reduction = "mean"
    with pytest.raises(UserError, match=r"labels go up to 11, and the head has 11 outputs"):
        model(*batch, labels=torch.full((4, 1), 11))


def test_the_loss_is_that_of_each_utterance_alone(exports, batch):
    model = transformers.AutoModelForCTC.from_pretrained(exports / "recogniser")
    model.config.ctc_loss_reduction = "sum"
    labels = torch.tensor([[5, 6], [7, -100]])
    with torch.no_grad():
        together = model(batch[0][1:3], batch[1][1:3], labels=labels).loss
        alone = [model(batch[0][1:2, :10000], labels=labels[:1]).loss]
        alone.append(model(batch[0][2:3], labels=labels[1:]).loss)
    torch.testing.assert_close(together, sum(alone))


def test_masks_that_cannot_be(exports, batch):
    model = transformers.AutoModel.from_pretrained(exports / "encoder")
    with pytest.raises(UserError, match=r"attention_mask has zeros before ones: pad utterances on"):
        model(batch[0], batch[1].flip(1))
    with pytest.raises(UserError, match=r"attention_mask is .4, 9. for input_values"):
        model(batch[0], batch[1][:, :9])


def test_every_weight_has_to_be_there(exports, tmp_path):
    folder = tmp_path / "partial"
    shutil.copytree(exports / "encoder", folder)
    state = load_file(folder / "model.safetensors")
    del state["encoder.features.mean"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no encoder.features.mean .missing: 1.: export it"):
        transformers.AutoModel.from_pretrained(folder)
    model, info = transformers.AutoModel.from_pretrained(
        exports / "encoder", output_loading_info=True
    )
    assert isinstance(model, hf.PoMSpeechModel)
    assert not info["missing_keys"]


def test_a_config_runs_no_code(exports, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(exports / "encoder", folder)
    config = json.loads((folder / "config.json").read_text())
    code = f"!!python/object/apply:os.mkdir [{tmp_path / 'owned'}]"
    config["architecture"] += f"head: {code}\n"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json: head has !!python/object/apply:os.mkdir"):
        transformers.AutoModel.from_pretrained(folder)
    assert not (tmp_path / "owned").exists()


def test_a_learnt_sum_is_the_output(make_run, tmp_path, batch):
    make_run(tmp_path / "run", "ctc", weighted_sum=True)
    saved = find_saved(tmp_path / "run")
    torch.save({"scores": torch.tensor([0.5, -1.0, 2.0])}, saved.checkpoint / "layer_sum.ckpt")
    (saved.checkpoint / "checksums.json").unlink()
    export_model(saved, tmp_path / "out", form="transformers")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        frames, _ = load_encoder(saved.checkpoint)(batch[0], torch.tensor(LENGTHS))
        output = model(*batch, output_hidden_states=True)
    close(output.last_hidden_state, frames)


def test_what_is_not_there(finetuned_run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--format is 'keras': choose speechbrain or transformers"):
        export_model(find_saved(finetuned_run), tmp_path / "out", form="keras")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs transformers: pip install 'speechbrain-pom"):
        export_model(find_saved(finetuned_run), tmp_path / "out", form="transformers")
    assert not (tmp_path / "out").exists()
