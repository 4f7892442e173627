"""fsdp: True computes what copies of all weights compute, and its checkpoints are read anywhere."""

import copy
import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from speechbrain_pom import load_encoder
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.runs.checkpoints import find_damage
from speechbrain_pom.runs.sharded_state import VALUES_FILE
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.sharding import shard
from speechbrain_pom.utils.errors import UserError
from tests.helpers import recipes, sum_within_layers
from tests.helpers.processes import run_in_two, train_together

OPTIONS = {"valid_split": "train-clean-100"}
SAVED = 128 + signal.SIGUSR1
FILES = ("model", "normalize", "linear", "noam_scheduler", "train_statistics")


def train(pretraining, folder, tmp_path, world_size=2, **options):
    """Train with several processes; the exit codes, and what the first one printed."""
    return train_together(pretraining, folder, tmp_path, world_size, **{**OPTIONS, **options})


def values(folder):
    """All tensors of a checkpoint, those of an optimizer in shards too, and its statistics."""
    checkpoint, _ = recipes.newest_checkpoint(folder)
    assert find_damage(checkpoint) is None
    found = recipes.tensors(folder, *FILES[:-1])
    found["statistics"] = json.loads((checkpoint / "train_statistics.ckpt").read_text())
    optimizer = checkpoint / "optimizer.ckpt"
    if optimizer.is_file():
        return found | recipes.tensors(folder, "optimizer")
    shards = [load_file(file) for file in sorted(optimizer.glob("*.safetensors"))]
    assert len(shards) == 2
    assert {len(shard) for shard in shards} == {len(shards[0])} != {0}
    for name in shards[0]:
        whole = torch.cat([shard[name] for shard in shards])
        found[f"optimizer.state.{name}"] = whole
    recipes._flatten(torch.load(optimizer / VALUES_FILE, weights_only=True), "optimizer", found)
    return found


def test_stopped_killed_in_a_save_and_resumed_is_the_run_with_copies(pretraining, tmp_path):
    copies, folder = tmp_path / "copies", tmp_path / "shards"
    codes, printed = train(pretraining, copies, tmp_path)
    assert codes == [0, 0], printed
    options = {"fsdp": True, "ckpt_interval_steps": 1}
    codes, printed = train(pretraining, folder, tmp_path, stop_after=1, **options)
    assert codes == [SAVED, SAVED], printed
    first = {path.name for path in (folder / "save").glob("CKPT+*")}
    codes, printed = train(pretraining, folder, tmp_path, kill_in_save=1, **options)
    assert codes[1] == -signal.SIGKILL, printed
    assert {path.name for path in (folder / "save").glob("CKPT+*")} == first
    # The first process has seen it and cleaned up, unless it ended with the other.
    assert "checkpoint not saved in" in printed or list((folder / "save").glob(".saving/CKPT+*"))
    codes, printed = train(pretraining, folder, tmp_path, **options)
    assert codes == [0, 0], printed
    assert "Resumed after 1 optimizer steps" in printed
    assert recipes.history(folder)[-1]["steps"] == 4
    first, second = values(copies), values(folder)
    assert recipes.differing(first, second) == []  # to the bit: nothing was clipped
    wavs = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    frames = [load_encoder(run)(wavs)[0] for run in (copies, folder)]
    assert torch.equal(*frames)
    for ours, theirs in zip(recipes.history(folder), recipes.history(copies), strict=True):
        assert ours["valid"] == theirs["valid"]
        assert ours["train"]["loss"] == theirs["train"]["loss"]
        assert ours["train"]["grad_norm"] == pytest.approx(theirs["train"]["grad_norm"], rel=1e-6)


@pytest.mark.slow
def test_two_one_and_two_processes_with_shards_and_without(pretraining, tmp_path):
    """One after the other they read what the one before has written, whether in shards or not."""
    straight, changing = tmp_path / "straight", tmp_path / "changing"
    options = {"batches_per_step": 2, "mask_scope": "batch", "number_of_epochs": 4}
    codes, printed = train(pretraining, straight, tmp_path, **options)
    assert codes == [0, 0], printed
    # shards -> one process -> shards -> copies
    turns = [(2, True, 1), (1, True, 2), (2, True, 3), (2, False, None)]
    for world_size, fsdp, stop_after in turns:
        codes, printed = train(
            pretraining, changing, tmp_path, world_size, stop_after=stop_after, fsdp=fsdp, **options
        )
        assert codes == [SAVED if stop_after else 0] * world_size, printed
        checkpoint, _ = recipes.newest_checkpoint(changing)
        assert (checkpoint / "optimizer.ckpt").is_dir() == (fsdp and world_size > 1)
    first, second = values(straight), values(changing)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, second[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two minutes of synthetic speech in LibriSpeech's layout."""
    folder = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    return make_mini_corpus(folder, duration_min=2.0, show_progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("wav2vec2", {"layerdrop_prob": 0.5}),  # each process drops layers of its own
        ("bestrq", {"precision": "bf16", "streaming": True, "chunk_size_range": "[2, 6]"}),
        ("ctc", {"pretrained": "null", "weighted_sum": True}),
        ("ctc", {"pretrained": "null", "freeze_encoder": True}),
    ],
)
def test_each_recipe_is_that_with_copies(corpus, tmp_path, stage, options):
    folders = []
    for fsdp in (False, True):
        folders.append(tmp_path / f"fsdp-{fsdp}")
        # The order in which copies sum the gradients of a layer's output is made that of shards.
        launcher = recipes.TORCHRUN if fsdp else [*recipes.TORCHRUN, sum_within_layers.__file__]
        options |= {"data_folder": corpus, "number_of_epochs": 1, "max_grad_norm": 1e9}
        recipes.train(stage, folders[-1], launcher=launcher, fsdp=fsdp, **options)
    names = {"wav2vec2": ("quantizer", "linear", "mask_vector"), "bestrq": ("linear",)}
    names = ("model", *names.get(stage, ("head", "layer_sum")))
    first, second = (recipes.tensors(folder, *names) for folder in folders)
    assert first.keys() == second.keys()
    for name, value in first.items():  # rounding: vectors end elsewhere in shards
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-6, msg=name)


class Following(torch.nn.Module):
    """An encoder, a head, and a teacher that follows the encoder; notes what `forward` sees."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = ConformerEncoder(2, 16, 32, 2, attention_type="regularMHA")
        self.linear = torch.nn.Linear(16, 16)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, frames):
        parts = self.linear, self.encoder.norm, self.encoder.layers[0], self.teacher.layers[0]
        self.in_shards = [isinstance(next(part.parameters()), DTensor) for part in parts]
        with torch.no_grad():
            targets, _ = self.teacher(frames)
        return (self.linear(self.encoder(frames)[0]) - targets).square().mean()

    @torch.no_grad()
    def follow(self):
        for mine, its in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            mine.lerp_(its, 0.1)


def _what_an_objective_sees(*_):
    whole, shards = Following().eval(), shard(Following().eval(), init_device_mesh("cpu", (2,)))
    frames = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    for module in (whole, shards):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(frames).backward()
            optimizer.step()
            module.follow()
    assert whole.in_shards == [False] * 4
    assert shards.in_shards == [False, False, True, True]
    for mine, its in zip(shards.parameters(), whole.parameters(), strict=True):
        assert isinstance(mine, DTensor)
        assert torch.equal(mine.full_tensor(), its)
    norm = shards.linear.weight.detach().norm()
    assert float(norm) < 0.9 * float(whole.linear.weight.norm())  # that of this process's part
    assert torch.allclose(norm.full_tensor(), whole.linear.weight.norm())
    return "seen"


def test_what_an_objective_sees_is_what_its_page_says(tmp_path):
    """docs/adding_an_objective.md."""
    assert run_in_two(_what_an_objective_sees, tmp_path) == ["seen", "seen"]


def brain(module=None, run_opts=None, **hparams):
    """A Brain that is only made."""
    modules = {"model": torch.nn.Linear(2, 2) if module is None else module}
    hparams = {"seed": 1, "sample_rate": 16000, "fsdp": True, **hparams}
    return ExactBrain(modules, hparams=hparams, run_opts=run_opts)


@pytest.mark.parametrize(
    "option", [{"compile": True}, {"find_unused_parameters": True}, {"jit": True}, {"debug": True}]
)
def test_what_shards_cannot_do_is_refused(option):
    (name,) = option
    with pytest.raises(UserError, match=rf"fsdp: True does not go with --{name}: .* Leave one out"):
        brain(run_opts=option)


def test_statistics_of_layers_are_refused():
    with pytest.raises(UserError, match="does not go with --layer_statistics_interval: no process"):
        brain(layer_statistics_interval=5, output_folder="unused")


def test_other_values_and_weights_that_cannot_be_shared_out_are_refused():
    with pytest.raises(UserError, match="fsdp is 'yes': give True, or False"):
        brain(fsdp="yes")
    module = torch.nn.Linear(2, 2)
    module.register_parameter("gain", torch.nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(UserError, match=r"the weight model\.gain is a single number"):
        brain(module)
    mixed = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).double()])
    with pytest.raises(UserError, match=r"several dtypes .*float32, .*float64"):
        brain(mixed)


def test_a_single_process_has_everything_itself(caplog):
    made = brain()
    with caplog.at_level("INFO"):
        made._wrap_distributed()
    assert made.sharded == []
    assert "fsdp: a single process has all weights itself" in caplog.text
