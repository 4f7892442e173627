"""States in shards: what is written, what is read again without them, and what is refused."""

import errno
import os

import pytest
import torch
from torch import distributed
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from speechbrain_pom.runs.checkpoints import SafeCheckpointer, find_damage
from speechbrain_pom.runs.sharded_state import load_state, save_state
from speechbrain_pom.training.sharding import gathered, shard
from speechbrain_pom.utils.errors import UserError


@pytest.fixture
def mesh(monkeypatch):
    """A process group of this process alone."""
    for name in ("RANK", "LOCAL_RANK"):  # what SpeechBrain knows the main process by
        monkeypatch.setenv(name, "0")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def trained(mesh=None, seed=0):
    """A module and its optimizer after two steps."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
    if mesh is not None:
        module = shard(module, mesh)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(2):
        module(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def states(module, optimizer):
    """All tensors, as wholes."""
    of_optimizer = [v for part in optimizer.state_dict()["state"].values() for v in part.values()]
    found = [*module.state_dict().values(), *of_optimizer]
    return [value.full_tensor() if isinstance(value, DTensor) else value for value in found]


def test_shards_and_wholes_are_read_by_either(mesh, tmp_path):
    sharded, plain = trained(mesh), trained()
    assert all(isinstance(weight, DTensor) for weight in sharded[0].parameters())
    wanted = states(*plain)
    assert len(wanted) == 4 + 4 * 3
    assert all(map(torch.equal, states(*sharded), wanted))
    for name, written in (("sharded", sharded), ("plain", plain)):
        with gathered(sharded[0]):  # as at the end of a validation
            for part, file in zip(written, ("model.ckpt", "optimizer.ckpt"), strict=True):
                (tmp_path / name).mkdir(exist_ok=True)
                save_state(part, tmp_path / name / file)
        for read in (trained(mesh, seed=1), trained(seed=1)):
            assert not torch.equal(states(*read)[0], wanted[0])
            for part, file in zip(read, ("model.ckpt", "optimizer.ckpt"), strict=True):
                load_state(part, tmp_path / name / file)
            assert all(map(torch.equal, states(*read), wanted))
    assert (tmp_path / "sharded/optimizer.ckpt").is_dir()
    assert torch.load(tmp_path / "sharded/model.ckpt", weights_only=True).keys() == {
        "0.weight", "0.bias", "1.weight", "1.bias"
    }  # fmt: skip


def test_a_checkpoint_guards_the_files_of_its_shards_too(mesh, tmp_path):
    module, optimizer = trained(mesh)
    checkpointer = SafeCheckpointer(tmp_path, {"model": module, "optimizer": optimizer})
    saved = checkpointer.save_checkpoint(name="one").path
    (shards,) = (saved / "optimizer.ckpt").glob("*.safetensors")
    assert find_damage(saved) is None
    content = shards.read_bytes()
    shards.write_bytes(content[:-1] + b"x")
    assert f"{shards.name} have changed" in find_damage(saved)
    shards.unlink()
    assert f"{shards.name} is missing" in find_damage(saved)


def test_a_full_disk_under_the_shards_leaves_the_checkpoint_before(mesh, tmp_path, monkeypatch):
    module, optimizer = trained(mesh)
    checkpointer = SafeCheckpointer(tmp_path, {"model": module, "optimizer": optimizer})
    before = checkpointer.save_checkpoint(name="before").path

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", fail)
    with pytest.raises(RuntimeError, match=r"checkpoint not saved in .*: disk full"):
        checkpointer.save_checkpoint(name="after")
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [before]
    assert find_damage(before) is None


def test_an_optimizer_before_its_first_step(mesh, tmp_path):
    module = shard(torch.nn.Linear(2, 2), mesh)
    save_state(torch.optim.AdamW(module.parameters()), tmp_path / "optimizer.ckpt")
    other = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters(), lr=5.0)
    load_state(other, tmp_path / "optimizer.ckpt")
    assert other.param_groups[0]["lr"] == 1e-3


def test_a_state_of_another_shape_is_refused(mesh, tmp_path):
    module, optimizer = trained(mesh)
    weight = next(module.parameters())
    optimizer.state[weight]["row_sums"] = weight.detach().sum(1)
    with pytest.raises(UserError, match="AdamW keeps row_sums in another shape than its weights"):
        save_state(optimizer, tmp_path / "optimizer.ckpt")
    assert not (tmp_path / "optimizer.ckpt").exists()
