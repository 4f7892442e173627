"""SpeechBrain's `from_hparams` on exports: as our own loading, and strict."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from speechbrain.dataio import audio_io
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.inference.ASR import EncoderASR
from speechbrain.inference.encoders import WaveformEncoder
from speechbrain.utils.fetching import FetchConfig

from speechbrain_pom.ctc.decoding import greedy_decode
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.encoder.weights import load_weights, read_weights
from speechbrain_pom.inference import load_encoder, load_recogniser
from speechbrain_pom.inference.speechbrain_interface import greedy_labels
from speechbrain_pom.reports.export import export_model
from tests.helpers.refusals import refusal

LENGTHS = [399, 5133, 10000, 16000]  # samples: the first is one frame


@pytest.fixture(scope="module")
def recogniser_export(finetuned_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "ctc"
    export_model(find_saved(finetuned_run), out)
    return out


@pytest.fixture(scope="module")
def encoder_export(pretrained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "bestrq"
    export_model(find_saved(pretrained_run), out)
    return out


@pytest.fixture(scope="module")
def wavs():
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(length, generator=generator) for length in LENGTHS]


@pytest.fixture(scope="module")
def batch(wavs):
    """Waveforms and their relative lengths, as SpeechBrain pads them."""
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return padded, torch.tensor(LENGTHS) / max(LENGTHS)


@pytest.fixture
def audio(wavs, tmp_path):
    path = tmp_path / "speech.wav"
    audio_io.save(str(path), wavs[-1].unsqueeze(0), 16000)
    return path


def transcripts(folder, wavs):
    """By our own loading and decoding, each waveform alone."""
    recogniser = load_recogniser(folder)
    with torch.no_grad():
        return [
            greedy_decode(recogniser(wav.unsqueeze(0))[0], torch.ones(1), recogniser.units)[0]
            for wav in wavs
        ]


def test_transcripts_are_ours_alone_and_in_a_batch(recogniser_export, wavs, batch, tmp_path):
    asr = EncoderASR.from_hparams(source=str(recogniser_export), savedir=str(tmp_path / "saved"))
    expected = transcripts(recogniser_export, wavs)
    assert len(set(expected)) > 1
    assert asr.transcribe_batch(*batch)[0] == expected
    alone = [asr.transcribe_batch(wav.unsqueeze(0), torch.ones(1))[0][0] for wav in wavs]
    assert alone == expected


def test_log_probabilities_are_ours(recogniser_export, batch):
    found = EncoderASR.from_hparams(source=recogniser_export).encode_batch(*batch)
    expected, num_frames = load_recogniser(recogniser_export)(*batch)
    assert torch.equal(found, expected)
    assert found[0, num_frames[0] :, 0].eq(0.0).all()
    assert found[0, num_frames[0] :, 1:].eq(-torch.inf).all()


def test_lengths_of_samples_lose_a_frame_in_speechbrain(recogniser_export, batch):
    """5133 of 16000 samples are 9 of 26 frames, but rounded from their share only 8."""
    log_probs, num_frames = load_recogniser(recogniser_export)(*batch)
    assert num_frames[1] == 9
    assert round(5133 / 16000 * log_probs.shape[1]) == 8
    log_probs[1, 8] = torch.eye(29)[5].log()
    log_probs[1, 7] = torch.eye(29)[4].log()
    theirs = ctc_greedy_decode(log_probs, batch[1], blank_id=0)[1]
    assert greedy_labels(log_probs, batch[1], blank_index=0)[1] == [*theirs, 5]


def test_a_pretrained_encoder(encoder_export, batch, audio, wavs):
    encoder = WaveformEncoder.from_hparams(source=str(encoder_export))
    frames, num_frames = load_encoder(encoder_export)(*batch)
    found = encoder.encode_batch(*batch)
    assert torch.equal(found["embeddings"], frames)
    assert torch.equal(found["num_frames"], num_frames)
    from_file = encoder.encode_file(str(audio))
    torch.testing.assert_close(from_file[0], frames[-1], rtol=0, atol=1e-2)  # 16 bit


def test_the_encoder_of_a_recogniser(recogniser_export, batch):
    encoder = WaveformEncoder.from_hparams(recogniser_export, hparams_file="encoder.yaml")
    frames, _ = load_encoder(recogniser_export)(*batch)
    assert torch.equal(encoder.encode_batch(*batch)["embeddings"], frames)


def test_hidden_states_by_an_override(encoder_export, batch):
    encoder = WaveformEncoder.from_hparams(encoder_export, overrides={"layers": [0, 2]})
    found = encoder.encode_batch(*batch)["embeddings"]
    expected, _ = load_encoder(encoder_export, layers=[0, 2])(*batch)
    assert all(map(torch.equal, found, expected))


def test_a_learnt_sum_of_layers(make_run, tmp_path, batch):
    make_run(tmp_path / "run", "ctc", weighted_sum=True)
    export_model(find_saved(tmp_path / "run"), tmp_path / "out")
    asr = EncoderASR.from_hparams(source=tmp_path / "out")
    expected, _ = load_recogniser(tmp_path / "run")(*batch)
    assert torch.equal(asr.encode_batch(*batch), expected)


SCRIPT = """
import json, sys
import torch
from speechbrain.inference.ASR import EncoderASR
from speechbrain.inference.encoders import WaveformEncoder

asr, encoder, audio = sys.argv[1:]
text = EncoderASR.from_hparams(source=asr, savedir="saved").transcribe_file(audio)
frames = WaveformEncoder.from_hparams(source=encoder).encode_file(audio)
print(json.dumps([text, list(frames.shape)]))
"""


def test_a_process_with_only_the_packages(recogniser_export, encoder_export, audio, tmp_path):
    """The folders were moved; the working folder is empty; there is no network."""
    moved = tmp_path / "moved"
    for folder in (recogniser_export, encoder_export):
        shutil.copytree(folder, moved / folder.name)
    (tmp_path / "empty").mkdir()
    folders = [str(moved / recogniser_export.name), str(moved / encoder_export.name)]
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *folders, str(audio)],
        cwd=tmp_path / "empty",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    expected = transcripts(recogniser_export, [audio_io.load(str(audio))[0][0]])
    assert json.loads(finished.stdout.splitlines()[-1]) == [expected[0], [1, 26, 16]]


def test_a_model_hub(recogniser_export, tmp_path, batch, wavs):
    """The name of a repository, whose files are in the hub's cache."""
    revision = "0" * 40
    repository = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(recogniser_export, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    offline = FetchConfig(huggingface_cache_dir=str(tmp_path / "cache"), allow_network=False)
    for savedir in (None, tmp_path / "saved"):
        asr = EncoderASR.from_hparams("someone/model", savedir=savedir, fetch_config=offline)
        assert asr.transcribe_batch(*batch)[0] == transcripts(recogniser_export, wavs)


def test_a_savedir_of_another_export_is_refused(recogniser_export, make_run, tmp_path):
    """SpeechBrain alone would go on with the other model."""
    make_run(tmp_path / "run", "ctc", seed=8)
    export_model(find_saved(tmp_path / "run"), tmp_path / "other")
    savedir = tmp_path / "saved"
    EncoderASR.from_hparams(source=recogniser_export, savedir=savedir)
    EncoderASR.from_hparams(source=recogniser_export, savedir=savedir)
    message = refusal(EncoderASR.from_hparams, source=tmp_path / "other", savedir=savedir)
    assert "other/encoder.safetensors' is not what this hyperparams.yaml was exported" in message
    assert "or savedir holds another export; give an empty savedir" in message


@pytest.fixture
def changeable(recogniser_export, tmp_path):
    return shutil.copytree(recogniser_export, tmp_path / "changed")


def test_changed_and_missing_files_are_refused(changeable):
    units = changeable / "units.json"
    units.write_text(units.read_text() + "\n")
    assert "units.json' is not what this hyperparams.yaml" in refusal(
        EncoderASR.from_hparams, source=changeable
    )
    units.unlink()
    assert "units.json' is missing: the export is not complete" in refusal(
        EncoderASR.from_hparams, source=changeable
    )


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_with_the_right_checksum_is_refused(changeable, tmp_path):
    path = changeable / "encoder.safetensors"
    evil = pickle.dumps(Evil(tmp_path / "executed"))
    hparams = (changeable / "hyperparams.yaml").read_text()
    before, after = (hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), evil))
    (changeable / "hyperparams.yaml").write_text(hparams.replace(before, after))
    path.write_bytes(evil)
    message = refusal(EncoderASR.from_hparams, source=changeable)
    assert "encoder.safetensors' is missing, damaged or no safetensors file" in message
    assert not (tmp_path / "executed").exists()


def test_another_head_is_refused(recogniser_export):
    message = refusal(load_weights, torch.nn.Linear(3, 2), recogniser_export / "head.safetensors")
    assert "head.safetensors does not fit" in message


def test_no_file(tmp_path):
    message = refusal(read_weights, tmp_path / "a.safetensors")
    assert "a.safetensors' is missing, damaged or no safetensors file" in message
