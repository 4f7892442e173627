"""SpeechBrain's `StreamingASR` on exports: the texts and the frames of our own streams."""

import pytest
import torch
from speechbrain.dataio import audio_io
from speechbrain.inference.ASR import StreamingASR
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom.ctc.tokenizers import CharacterUnits, SentencePieceUnits
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.inference.speechbrain_interface import Tokenizer
from speechbrain_pom.inference.speechbrain_streaming import LastLabels, OpenWord, new_labels
from speechbrain_pom.inference.speechbrain_streaming import new_text as text_of_labels
from speechbrain_pom.reports.export import export_model
from speechbrain_pom.utils.errors import UserError
from tests.helpers.sounds import sound

CHUNKS = DynChunkTrainConfig(8)


@pytest.fixture(scope="module")
def export(finetuned_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "ctc"
    export_model(find_saved(finetuned_run), out)
    return out


@pytest.fixture(scope="module")
def asr(export):
    return StreamingASR.from_hparams(source=str(export), hparams_file="streaming.yaml")


def streamed(folder, wav, left_s=None):
    """The text and the log-probabilities of our own stream, cut as nobody's frames are."""
    recogniser = load_recogniser(folder)
    stream = recogniser.encoder.stream(chunk_s=0.32, left_s=left_s)
    log_probs = recogniser.classify(stream.accept(wav).unsqueeze(0))
    labels = new_labels(log_probs, LastLabels(), 0)[0]
    return recogniser.units.decode(labels), log_probs


@pytest.mark.parametrize("num_samples", [1, 5119, 20_480, 40_000])
def test_a_file(export, asr, tmp_path, num_samples):
    pcm = (sound(num_samples).clamp(-1, 1) * 32767).round() / 32768
    audio_io.save(str(tmp_path / "a.wav"), pcm.unsqueeze(0), 16000)
    parts = list(asr.transcribe_file_streaming(str(tmp_path / "a.wav"), CHUNKS, False))
    whole = torch.cat([pcm, torch.zeros(2 * 8 * 640)])
    expected, _ = streamed(export, whole)
    assert "".join(parts) == expected
    assert len(parts) == -(-num_samples // 5120) + 2
    if num_samples > 20_000:
        assert len(expected) > 2
        assert sum(map(bool, parts)) > 1


@pytest.mark.parametrize("left", [None, 0, 3])
def test_frames_of_a_batch_in_packets_of_any_size(export, asr, left):
    wavs = torch.stack([sound(30_000, seed) for seed in (0, 1)])
    context = asr.make_streaming_context(DynChunkTrainConfig(8, left))
    parts = [asr.encode_chunk(context, part) for part in wavs.split(1234, dim=1)]
    assert parts[0].shape[1] == 0
    found = torch.cat(parts, dim=1).float().log_softmax(-1)
    for row, wav in zip(found, wavs, strict=True):
        _, expected = streamed(export, wav, None if left is None else left * 0.32)
        torch.testing.assert_close(row, expected[0], rtol=0, atol=1e-5)


def test_another_batch_in_the_same_context(asr):
    context = asr.make_streaming_context(CHUNKS)
    asr.encode_chunk(context, torch.zeros(2, 5120))
    with pytest.raises(UserError, match="a chunk of 3 streams where there were 2: make a new"):
        asr.encode_chunk(context, torch.zeros(3, 5120))


def test_an_encoder_that_needs_a_left_context_says_so(asr, monkeypatch):
    encoder = asr.mods.enc.encoder
    monkeypatch.setattr(encoder.features, "norm_type", "sentence")
    with pytest.raises(UserError, match="normalised by the whole utterance"):
        asr.make_streaming_context(CHUNKS)


def pieces():
    texts = ["HELLO WORLD", "LOW WORDS", "A LLAMA", "ÄÖ €"] * 5
    return SentencePieceUnits.train(texts, 40)


@pytest.mark.parametrize("units", [CharacterUnits(), "pieces"])
def test_texts_are_those_of_all_labels_however_they_come(units):
    units = pieces() if units == "pieces" else units
    tokenizer = Tokenizer()
    tokenizer.units = units
    generator = torch.Generator().manual_seed(0)
    for text in ("HELLO WORLD", "A LLAMA", "", "HELLO HELLO LOW", "  A  "):
        labels = units.encode(text)
        noise = torch.randint(1, units.size, (20,), generator=generator).tolist()
        for given in (labels, noise):
            for step in (1, 2, 5):
                context = OpenWord()
                starts = range(0, len(given), step)
                told = [text_of_labels(tokenizer, given[i : i + step], context) for i in starts]
                assert "".join(told) == units.decode(given)
                assert len(context.labels) <= len(given)


def test_labels_over_the_border_of_chunks():
    """A frame that goes on is one label, a blank between makes two, in each stream by itself."""
    rows = torch.tensor([[9, 9, 0, 9, 10, 10], [0, 0, 0, 0, 0, 11]])
    outputs = torch.nn.functional.one_hot(rows, 29)
    for step in (1, 2, 3, 6):
        context = LastLabels()
        found = [new_labels(part, context, 0) for part in outputs.split(step, dim=1)]
        joined = [[label for part in found for label in part[row]] for row in range(2)]
        assert joined == [[9, 9, 10], [11]]
