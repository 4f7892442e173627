"""Exports: written whole, loaded as they were, and refused in one line where anything is wrong."""

import errno
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechbrain_pom._version import __version__
from speechbrain_pom.ctc.tokenizers import CharacterUnits, SentencePieceUnits
from speechbrain_pom.encoder.architecture import read_architecture
from speechbrain_pom.encoder.loading import find_saved, is_export
from speechbrain_pom.encoder.weights import read_weights
from speechbrain_pom.inference import export, load_encoder, load_recogniser
from speechbrain_pom.inference.export import write_export
from speechbrain_pom.reports.export import export_model, run_identity
from speechbrain_pom.runs.record import record_run
from tests.helpers.refusals import refusal

PRETRAINED = {"README.md", "encoder.safetensors", "encoder.yaml", "hyperparams.yaml"}
FINETUNED = PRETRAINED | {"head.safetensors", "units.json", "streaming.yaml"}
LENGTHS = [399, 10000, 16000]  # samples: the first is one frame


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def wavs():
    return torch.nn.utils.rnn.pad_sequence(
        [0.1 * torch.randn(length) for length in LENGTHS], batch_first=True
    )


@pytest.fixture
def pretrained_export(pretrained_run, tmp_path):
    export_model(find_saved(pretrained_run), tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def finetuned_export(finetuned_run, tmp_path):
    export_model(find_saved(finetuned_run), tmp_path / "recogniser")
    return tmp_path / "recogniser"


def assert_same(ours, theirs, wavs):
    """Two models give the same to the last bit; frames or log-probabilities."""
    with torch.no_grad():
        for mine, other in zip(
            ours(wavs, torch.tensor(LENGTHS)), theirs(wavs, torch.tensor(LENGTHS)), strict=True
        ):
            assert torch.equal(mine, other)


def test_an_encoder_comes_back(pretrained_run, pretrained_export, wavs):
    assert {path.name for path in pretrained_export.iterdir()} == PRETRAINED
    assert is_export(pretrained_export)
    assert not is_export(pretrained_run)
    exported = load_encoder(pretrained_export)
    assert not exported.training
    assert_same(load_encoder(pretrained_run), exported, wavs)


def test_a_recogniser_comes_back(finetuned_run, finetuned_export, wavs):
    assert {path.name for path in finetuned_export.iterdir()} == FINETUNED
    exported = load_recogniser(finetuned_export)
    assert_same(load_recogniser(finetuned_run), exported, wavs)
    assert_same(load_encoder(finetuned_run), load_encoder(finetuned_export), wavs)
    assert exported.units.record == CharacterUnits().record


def test_threads_share_an_exported_recogniser(finetuned_export, wrong_in_threads):
    recogniser = load_recogniser(finetuned_export)
    jobs = [
        (torch.randn(3, longest), torch.tensor([longest, 399, shorter]))
        for longest, shorter in ((8000, 3001), (8000, 7000), (6000, 1), (7990, 500))
    ]
    assert wrong_in_threads(lambda *job: recogniser(*job)[0], jobs) == []


def test_a_moved_copy_loads(finetuned_export, tmp_path, wavs):
    before = load_recogniser(finetuned_export)
    moved = tmp_path / "another" / "place"
    shutil.copytree(finetuned_export, moved)
    shutil.rmtree(finetuned_export)
    assert_same(before, load_recogniser(moved), wavs)


def test_a_learnt_sum_of_layers_comes_back(make_run, tmp_path, wavs):
    make_run(tmp_path / "run", "ctc", weighted_sum=True)
    saved = find_saved(tmp_path / "run")
    scores = torch.tensor([0.5, -1.0, 2.0])
    torch.save({"scores": scores}, saved.checkpoint / "layer_sum.ckpt")
    (saved.checkpoint / "checksums.json").unlink()
    export_model(saved, tmp_path / "out")
    encoder = load_encoder(tmp_path / "out")
    assert torch.equal(encoder.layer_sum.scores, scores)
    assert_same(load_recogniser(saved.checkpoint), load_recogniser(tmp_path / "out"), wavs)
    last = load_encoder(tmp_path / "out", layers="last")
    assert_same(load_encoder(saved.checkpoint, layers="last"), last, wavs)


def test_layers_are_chosen_at_loading(pretrained_export, wavs):
    states, _ = load_encoder(pretrained_export, layers=[0, 2])(wavs)
    assert len(states) == 2
    assert load_encoder(pretrained_export, layers="sum").layer_sum.scores.tolist() == [0.0] * 3


def test_pieces_come_back(make_run, tmp_path):
    make_run(tmp_path / "run", "ctc", tokenizer="bpe", num_pieces=12)
    units = SentencePieceUnits.train(["ONE TWO", "TWO ONE ONE"], num_pieces=12)
    units.save(tmp_path / "run" / "units")
    paths = export_model(find_saved(tmp_path / "run"), tmp_path / "out")
    assert {path.name for path in paths} == FINETUNED | {"pieces.model"}
    found = load_recogniser(tmp_path / "out").units
    assert found.decode(units.encode("TWO ONE")) == "TWO ONE"


def test_nothing_but_data_and_no_path_of_this_machine(finetuned_run, tmp_path):
    run = tmp_path / "home" / "run"
    shutil.copytree(finetuned_run, run)
    text = (run / "hyperparams.yaml").read_text()
    text = text.replace("num_blocks: 2", f"num_blocks: 2  # as in {tmp_path}/notes")
    (run / "hyperparams.yaml").write_text(text)
    saved = find_saved(run)
    assert str(tmp_path) not in read_architecture(run / "hyperparams.yaml")
    for path in export_model(saved._replace(hparams_file=run / "hyperparams.yaml"), "out"):
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content, path
        assert str(finetuned_run).encode() not in content, path
        assert content[:1] in b"-#{" or load_file(path), path  # text, or tensors


def test_metadata(finetuned_export, finetuned_run):
    for name in ("encoder", "head"):
        _, metadata = read_weights(finetuned_export / f"{name}.safetensors")
        assert metadata["speechbrain_pom_export"] == "1"
        assert metadata["speechbrain_pom"] == __version__
        assert metadata["run"] == run_identity(find_saved(finetuned_run))
        assert "commit" not in metadata  # this run has no env.log


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["encoder.safetensors", "head.safetensors"])
def test_a_pickle_is_refused(finetuned_export, tmp_path, name):
    (finetuned_export / name).write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    message = refusal(load_recogniser, finetuned_export)
    assert f"{name}' is missing, damaged or no safetensors file" in message
    assert not (tmp_path / "executed").exists()
    pickle.loads((finetuned_export / name).read_bytes()).close()
    assert (tmp_path / "executed").exists()  # it would have been


def test_damaged_and_incomplete_exports_are_refused(finetuned_export):
    weights = (finetuned_export / "head.safetensors").read_bytes()
    (finetuned_export / "head.safetensors").write_bytes(weights[:-9])
    assert "head.safetensors' is missing, damaged or no" in refusal(
        load_recogniser, finetuned_export
    )
    (finetuned_export / "head.safetensors").unlink()
    assert "export the model again" in refusal(load_recogniser, finetuned_export)
    (finetuned_export / "head.safetensors").write_bytes(weights)
    (finetuned_export / "units.json").unlink()
    assert "units.json is missing" in refusal(load_recogniser, finetuned_export)


def test_weights_that_do_not_fit_are_refused(pretrained_export):
    path = pretrained_export / "encoder.safetensors"
    state = load_file(path)
    del state["features.mean"]
    save_file(state, path)
    assert "missing: features.mean" in refusal(load_encoder, pretrained_export)
    save_file(state, path, metadata={"speechbrain_pom_export": "2"})
    assert "is an export of format 2, this version reads 1" in refusal(
        load_encoder, pretrained_export
    )


def test_an_encoder_is_no_recogniser(pretrained_export):
    message = refusal(load_recogniser, pretrained_export)
    assert "is an export without a CTC head: export a run of train_ctc.py" in message


def write(tiny_encoder, run_folder, run="a", out="out", **options):
    architecture = read_architecture(run_folder / "hyperparams.yaml")
    return write_export(out, tiny_encoder, architecture, "card", run=run, **options)


def test_an_export_of_the_same_run_is_replaced_on_request(tiny_encoder, pretrained_run, tmp_path):
    write(tiny_encoder, pretrained_run, commit="1a2b")
    assert "out' holds an export of this run: replace it with --overwrite" in refusal(
        write, tiny_encoder, pretrained_run
    )
    with torch.no_grad():
        tiny_encoder.features.mean.add_(1.0)
    write(tiny_encoder, pretrained_run, overwrite=True)
    state, metadata = read_weights(tmp_path / "out" / "encoder.safetensors")
    assert torch.equal(state["features.mean"], tiny_encoder.features.mean)
    assert "commit" not in metadata
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_else_is_ever_lost(tiny_encoder, pretrained_run, tmp_path):
    out = tmp_path / "out"
    out.write_text("a file")
    assert "out' is a file: give a folder" in refusal(write, tiny_encoder, pretrained_run)
    out.unlink()
    out.mkdir()
    (out / "notes.txt").touch()
    other = "out' is not empty, and holds no export of this run: give another one"
    assert other in refusal(write, tiny_encoder, pretrained_run, overwrite=True)
    (out / "notes.txt").unlink()
    write(tiny_encoder, pretrained_run)  # into an empty folder
    assert other in refusal(write, tiny_encoder, pretrained_run, run="b", overwrite=True)
    (out / ".git").mkdir()
    message = refusal(write, tiny_encoder, pretrained_run, overwrite=True)
    assert "also holds .git, which would be lost" in message
    assert (out / ".git").exists()


def test_a_full_disk_leaves_the_older_export(tiny_encoder, pretrained_run, tmp_path, monkeypatch):
    write(tiny_encoder, pretrained_run)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "write_atomically", full)
    message = refusal(write, tiny_encoder, pretrained_run, overwrite=True)
    assert "cannot write '" in message
    assert "(disk full): give another folder or make room" in message
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]


def test_the_name_of_the_folder_is_checked_before_the_work(tiny_encoder, pretrained_run, tmp_path):
    longest = "x" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write(tiny_encoder, pretrained_run, out=longest)
    assert (tmp_path / longest / "README.md").is_file()
    message = refusal(write, tiny_encoder, pretrained_run, out=f"{longest}x")
    assert "bytes, and names in" in message
    assert os.listdir(tmp_path) == [longest]


def test_runs_are_told_apart(make_run, tmp_path):
    """By what they compute and from which data, not by where they are or how long they went on."""
    make_run(tmp_path / "a")
    record_run(tmp_path / "a", configuration={"seed": "1"})
    first = run_identity(find_saved(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    make_run(tmp_path / "b", seed=5)
    assert run_identity(find_saved(tmp_path / "b")) == first
    (tmp_path / "b" / "manifests").mkdir()
    (tmp_path / "b" / "manifests" / "train.csv").write_text("ID,duration")
    assert run_identity(find_saved(tmp_path / "b")) != first
    record_run(tmp_path / "a", configuration={"seed": "2"})
    assert run_identity(find_saved(tmp_path / "a")) != first


def test_a_checkpoint_without_its_run(pretrained_run, tmp_path, wavs):
    saved = find_saved(pretrained_run)
    alone = tmp_path / "taken" / saved.checkpoint.name
    shutil.copytree(saved.checkpoint, alone)
    shutil.copy(pretrained_run / "hyperparams.yaml", alone)
    export_model(find_saved(alone), tmp_path / "out")
    assert_same(load_encoder(pretrained_run), load_encoder(tmp_path / "out"), wavs)


def test_an_export_takes_no_other_hparams_file(pretrained_export):
    message = refusal(find_saved, pretrained_export, "other.yaml")
    assert "is an exported folder, with its own hyperparams.yaml: give no other" in message
