"""SafeCheckpointer: death, full disks and damage at any place leave a checkpoint to resume from."""

import errno
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from speechbrain.utils.checkpoints import (
    DEFAULT_SAVE_HOOKS,
    Checkpointer,
    get_default_hook,
)
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_pom.runs import checkpoints
from speechbrain_pom.runs.checkpoints import CHECKSUMS_FILE, SafeCheckpointer, find_damage
from speechbrain_pom.utils import files
from speechbrain_pom.utils.errors import UserError
from tests.helpers.processes import run_in_two

FILES = ("CKPT.yaml", "counter.ckpt", "model.ckpt", "optimizer.ckpt")


class Killed(BaseException):
    """Death: no handler of errors may see it."""


class Setup:
    """A model with its optimizer and counter, `number` giving all of their values."""

    def __init__(self, folder, number=0, kind=SafeCheckpointer):
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.counter = EpochCounter(100)
        for value in (0.5, 0.0):  # Adam has a state after a step
            for parameter in self.model.parameters():
                parameter.grad = torch.full_like(parameter, number + value)
            self.optimizer.step()
        for parameter in self.model.parameters():
            parameter.data.fill_(number + 0.1)
        self.counter.current = number
        recoverables = {
            "model": self.model, "optimizer": self.optimizer, "counter": self.counter
        }  # fmt: skip
        self.checkpointer = kind(folder, recoverables)

    def state(self):
        """All values, exactly."""
        moments = [
            value.tolist() for state in self.optimizer.state.values() for value in state.values()
        ]
        weights = [parameter.tolist() for parameter in self.model.parameters()]
        return weights, moments, self.counter.current


class Moments:
    """The moments of a save at which a run can die: around and within each file's writing."""

    def __init__(self, die=None, at=None):
        self.die, self.at, self.count, self.names = die, at, 0, []

    def reach(self, name):
        self.count += 1
        self.names.append(name)
        if self.count == self.at:
            self.die()

    def write(self, path, write):
        self.reach(f"before {path.name}")
        result = write()
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        self.reach(f"half of {path.name}")
        path.write_bytes(content)
        self.reach(f"after {path.name}")
        return result

    def install(self, checkpointer, patch):
        for name, obj in checkpointer.recoverables.items():
            hook = get_default_hook(obj, DEFAULT_SAVE_HOOKS)
            checkpointer.custom_save_hooks[name] = lambda obj, path, hook=hook: self.write(
                Path(path), lambda: hook(obj, path)
            )
        save_marker = checkpointer._save_checkpoint_metafile
        checkpointer._save_checkpoint_metafile = lambda path, *rest: self.write(
            path, lambda: save_marker(path, *rest)
        )
        write_text, rename, flush = Path.write_text, os.rename, files.flush_to_disk
        rmtree = shutil.rmtree

        def write_listing(path, *args, **kwargs):
            return self.write(path, lambda: write_text(path, *args, **kwargs))

        def rename_folder(source, target):
            self.reach(f"before rename to {target.parent.name}")
            rename(source, target)
            self.reach(f"after rename to {target.parent.name}")

        def remove(folder, **kwargs):
            for file in sorted(Path(folder).rglob("*.ckpt"))[:2]:
                self.reach(f"before removing {file.name}")
                file.unlink()
            rmtree(folder, **kwargs)

        patch.setattr(Path, "write_text", write_listing)
        patch.setattr(os, "rename", rename_folder)
        patch.setattr(files, "flush_to_disk", lambda p: (self.reach("before flush"), flush(p)))
        patch.setattr(shutil, "rmtree", remove)


def save_and_die(folder, kind, die, at):
    """Save number 1, then number 2, dying at one of its moments; the names of those reached."""
    Setup(folder, 1, kind).checkpointer.save_and_keep_only(importance_keys=[])
    second = Setup(folder, 2, kind)
    moments = Moments(die, at)
    with pytest.MonkeyPatch.context() as patch:
        moments.install(second.checkpointer, patch)
        second.checkpointer.save_and_keep_only(importance_keys=[])
    return moments.names


def die_by_exception():
    raise Killed


def run_and_die(folder, kind, way, at):
    if way == "exception":
        with pytest.raises(Killed):
            save_and_die(folder, kind, die_by_exception, at)
        return
    pid = os.fork()
    if pid == 0:
        save_and_die(folder, kind, lambda: os._exit(9), at)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def recovered_number(folder, kind=SafeCheckpointer):
    """Which save a fresh start finds, all of it; None if it finds nothing or fails."""
    fresh = Setup(folder, 7, kind)
    try:
        if fresh.checkpointer.recover_if_possible() is None:
            return None
    except Exception:
        return None
    expected = Setup(folder, fresh.counter.current, kind).state()
    return fresh.counter.current if fresh.state() == expected else None


@pytest.mark.parametrize("way", ["exception", "exit"])
def test_death_at_any_moment_leaves_a_whole_checkpoint(tmp_path, way):
    names = save_and_die(tmp_path / "whole", SafeCheckpointer, None, None)
    for file in (*FILES, CHECKSUMS_FILE):
        assert {f"before {file}", f"half of {file}", f"after {file}"} <= set(names)
    # The listing and the folder too, and the folder above after each of two renames.
    assert names.count("before flush") == len(FILES) + 4
    appears = names.index("after rename to whole") + 1
    assert "before removing model.ckpt" in names[appears:]
    for at in range(1, len(names) + 1):
        folder = tmp_path / f"{at}"
        run_and_die(folder, SafeCheckpointer, way, at)
        expected = 1 if at < appears else 2
        assert recovered_number(folder) == expected, names[at - 1]
        # No part of a checkpoint is among the checkpoints, and the next save works.
        assert not any(find_damage(path) for path in folder.glob("CKPT+*")), names[at - 1]
        Setup(folder, 3).checkpointer.save_and_keep_only(importance_keys=[])
        assert recovered_number(folder) == 3
        assert len(list(folder.glob("CKPT+*"))) == 1
        assert not any((folder / ".saving").iterdir())
        assert not (folder / ".deleting").exists()


def test_speechbrains_own_checkpointer_does_not_survive_this(tmp_path):
    names = save_and_die(tmp_path / "whole", Checkpointer, None, None)
    lost = []
    for at, name in enumerate(names, 1):
        run_and_die(tmp_path / f"{at}", Checkpointer, "exception", at)
        if recovered_number(tmp_path / f"{at}", Checkpointer) is None:
            lost.append(name)
    # From the marker, which is written first, until the last file is complete.
    assert lost[0] == "half of CKPT.yaml"
    assert lost[-1] == "half of counter.ckpt"
    assert len(lost) >= 9


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def fails_in_pytorch(_obj, path):
    Path(path).write_bytes(b"half")
    raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


def test_a_full_disk_is_named_and_keeps_what_is_there(tmp_path):
    Setup(tmp_path, 1).checkpointer.save_checkpoint()
    setup = Setup(tmp_path, 2)
    setup.checkpointer.custom_save_hooks["model"] = full_disk
    with pytest.raises(RuntimeError) as error:
        setup.checkpointer.save_checkpoint()
    assert str(error.value) == (
        f"checkpoint not saved in {tmp_path}: disk full. The earlier ones are as they were: "
        "make room and run the same command to resume"
    )
    assert not (tmp_path / ".saving").exists()  # the room is free again
    assert recovered_number(tmp_path) == 1
    del setup.checkpointer.custom_save_hooks["model"]  # room has been made
    setup.checkpointer.save_checkpoint()
    assert recovered_number(tmp_path) == 2


def test_a_full_disk_behind_pytorchs_error(tmp_path, monkeypatch):
    setup = Setup(tmp_path, 1)
    setup.checkpointer.custom_save_hooks["model"] = fails_in_pytorch
    with pytest.raises(RuntimeError, match=r"not saved in .*: PytorchStreamWriter failed writing"):
        setup.checkpointer.save_checkpoint()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(RuntimeError, match=r"not saved in .*: disk full"):
        setup.checkpointer.save_checkpoint()
    assert recovered_number(tmp_path) is None


REAL_FULL_DISK = """
import sys, torch
from pathlib import Path
from {module} import {kind}
disk = Path(sys.argv[1])
model = torch.nn.Linear(64, 64)  # 17 kB
first = model.weight.detach().clone()
checkpointer = {kind}(disk / "save", {{"model": model}})
checkpointer.save_checkpoint(name="first")
try:
    (disk / "filler").write_bytes(bytes(2**21))
except OSError:
    pass
def shrink(num_bytes):
    with open(disk / "filler", "r+b") as filler:
        filler.truncate((disk / "filler").stat().st_size - num_bytes)
shrink(12288)
torch.nn.init.zeros_(model.weight)
try:
    checkpointer.save_checkpoint(name="second")
except (OSError, RuntimeError) as error:
    print("refused:", error)
torch.nn.init.ones_(model.weight)
try:
    checkpointer.recover_if_possible()
    print("recovered the first:", torch.equal(model.weight, first))
except Exception as error:
    print("cannot resume:", type(error).__name__)
shrink(2**19)
checkpointer.save_checkpoint(name="third")
print("saved again")
"""


def on_a_small_disk(tmp_path, module, kind):
    """Run a script on a file system of 1 MiB, where this user may mount one."""
    script = tmp_path / "script.py"
    script.write_text(REAL_FULL_DISK.format(module=module, kind=kind))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {sys.executable} {script} {disk}"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_disk_that_is_really_full(tmp_path):
    lines = on_a_small_disk(
        tmp_path, "speechbrain_pom.runs.checkpoints", "SafeCheckpointer"
    ).splitlines()
    assert len(lines) == 3
    assert "checkpoint not saved in" in lines[0]
    assert "disk full" in lines[0]
    assert lines[1:] == ["recovered the first: True", "saved again"]


def test_a_full_disk_blocks_a_run_with_speechbrains_own_checkpointer(tmp_path):
    text = on_a_small_disk(tmp_path, "speechbrain.utils.checkpoints", "Checkpointer")
    assert "cannot resume" in text


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def size(folder, name):
    return (folder / name).stat().st_size


@pytest.mark.parametrize(
    ("name", "damage", "text"),
    [
        ("model.ckpt", cut, "model.ckpt has {less} bytes of {size}"),
        ("model.ckpt", flip, "the contents of model.ckpt have changed"),
        ("optimizer.ckpt", Path.unlink, "optimizer.ckpt is missing"),
        ("CKPT.yaml", Path.unlink, "it has no CKPT.yaml"),
        ("CKPT.yaml", cut, "CKPT.yaml has {less} bytes of {size}"),
        ("CKPT.yaml", flip, "the contents of CKPT.yaml have changed"),
        ("CKPT.yaml", lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
         "the contents of CKPT.yaml have changed"),
        (CHECKSUMS_FILE, Path.unlink, "it has no checksums.json"),
        (CHECKSUMS_FILE, cut, None),  # a line end: nothing is lost
        (CHECKSUMS_FILE, lambda path: path.write_bytes(b"\xff\x00"),
         "checksums.json cannot be read"),
        (CHECKSUMS_FILE, lambda path: path.write_text("[1]"), "checksums.json cannot be read"),
    ],
)  # fmt: skip
def test_damage_is_passed_over_and_named(tmp_path, caplog, name, damage, text):
    Setup(tmp_path, 1).checkpointer.save_checkpoint(name="older")
    newest = Setup(tmp_path, 2).checkpointer.save_checkpoint(name="newest").path
    num_bytes = size(newest, name)
    damage(newest / name)
    with caplog.at_level(logging.WARNING):
        assert recovered_number(tmp_path) == (2 if text is None else 1)
    if text is None:
        assert "passed over" not in caplog.text
    else:
        text = text.format(less=num_bytes - 1, size=num_bytes)
        assert f"Checkpoint {newest} is passed over: {text}" in caplog.messages
    Setup(tmp_path, 3).checkpointer.save_and_keep_only(importance_keys=[])
    assert recovered_number(tmp_path) == 3


def test_any_changed_byte_of_the_small_files_is_noticed(tmp_path):
    folder = Setup(tmp_path, 1).checkpointer.save_checkpoint().path
    for name in ("CKPT.yaml", CHECKSUMS_FILE, "counter.ckpt"):
        content = (folder / name).read_bytes()
        # The last byte of the checksums is a line end, without meaning.
        for position in range(len(content) - (name == CHECKSUMS_FILE)):
            for bit in (1, 128):
                changed = bytearray(content)
                changed[position] ^= bit
                (folder / name).write_bytes(changed)
                assert find_damage(folder), (name, position, bit)
        (folder / name).write_bytes(content)
    assert find_damage(folder) is None


def test_a_file_that_the_disk_does_not_give_back(tmp_path, monkeypatch):
    Setup(tmp_path, 1).checkpointer.save_checkpoint(name="older")
    newest = Setup(tmp_path, 2).checkpointer.save_checkpoint(name="newest").path
    sha256_of = checkpoints.sha256_of

    def bad_block(path):
        if path == newest / "model.ckpt":
            raise OSError(errno.EIO, "Input/output error")
        return sha256_of(path)

    monkeypatch.setattr(checkpoints, "sha256_of", bad_block)
    assert find_damage(newest) == "model.ckpt cannot be read (Input/output error)"
    assert recovered_number(tmp_path) == 1


def test_when_all_are_damaged_nothing_starts_over(tmp_path):
    setup = Setup(tmp_path, 1)
    for name in ("a", "b"):
        cut(setup.checkpointer.save_checkpoint(name=name).path / "model.ckpt")
    message = re.escape(f"all 2 checkpoints in '{tmp_path}' are damaged (CKPT+a: model.ckpt has ")
    for look in (setup.checkpointer.check, setup.checkpointer.recover_if_possible):
        with pytest.raises(UserError, match=message + r".*; CKPT\+b: .*\): repair them, or start"):
            look()


def test_damage_after_the_first_look_is_noticed(tmp_path):
    setup = Setup(tmp_path, 1)
    older, newer = (setup.checkpointer.save_checkpoint(name=name) for name in ("a", "b"))
    setup.checkpointer.check()
    cut(newer.path / "model.ckpt")
    assert setup.checkpointer.recover_if_possible().path == older.path


def test_an_empty_folder_is_a_fresh_start(tmp_path):
    assert Setup(tmp_path).checkpointer.recover_if_possible() is None


def test_the_best_and_the_newest_are_kept_and_found(tmp_path):
    for number, loss in enumerate([3.0, 1.0, 2.0, 2.5, 4.0], 1):
        Setup(tmp_path, number).checkpointer.save_and_keep_only(
            meta={"loss": loss}, num_to_keep=1, min_keys=["loss"], importance_keys=[]
        )
    setup = Setup(tmp_path)
    assert sorted(c.meta["loss"] for c in setup.checkpointer.list_checkpoints()) == [1.0, 4.0]
    assert setup.checkpointer.recover_if_possible(min_key="loss").meta["loss"] == 1.0
    assert setup.counter.current == 2
    assert setup.checkpointer.recover_if_possible(max_key="loss").meta["loss"] == 4.0
    assert setup.checkpointer.recover_if_possible().meta["loss"] == 4.0
    # A best one that is damaged is not found, and not deleted either.
    best = setup.checkpointer.find_checkpoint(min_key="loss").path
    cut(best / "model.ckpt")
    assert setup.checkpointer.recover_if_possible(min_key="loss").meta["loss"] == 4.0
    setup.checkpointer.delete_checkpoints(num_to_keep=0)
    assert list(tmp_path.glob("CKPT+*")) == [best]


def test_what_is_not_finite_is_never_the_best(tmp_path):
    for number, loss in enumerate([math.nan, 3.0, math.nan, 2.0, math.inf, math.nan], 1):
        Setup(tmp_path, number).checkpointer.save_and_keep_only(
            meta={"loss": loss}, num_to_keep=1, min_keys=["loss"], importance_keys=[]
        )
    setup = Setup(tmp_path)
    kept = {c.meta["loss"] for c in setup.checkpointer.list_checkpoints()}
    assert len(kept) == 2  # the best one, and the newest
    assert setup.checkpointer.recover_if_possible(min_key="loss").meta["loss"] == 2.0
    assert setup.checkpointer.recover_if_possible(max_key="loss").meta["loss"] == 2.0
    assert math.isnan(setup.checkpointer.recover_if_possible().meta["loss"])


def test_deletion_is_that_of_speechbrain(tmp_path):
    """The same calls leave the same checkpoints with both."""
    options = {
        "num_to_keep": 2,
        "min_keys": ["loss"],
        "max_keys": ["accuracy"],
        "ckpt_predicate": lambda checkpoint: checkpoint.meta["deletable"],
    }
    left = {}
    for kind in (Checkpointer, SafeCheckpointer):
        folder = tmp_path / kind.__name__
        for number in range(8):
            meta = {"loss": (3 * number) % 8, "deletable": number != 4, "unixtime": number}
            if number % 2:
                meta["accuracy"] = (5 * number) % 8
            setup = Setup(folder, number, kind)
            setup.checkpointer.save_checkpoint(meta, name=f"{number}")
        setup.checkpointer.delete_checkpoints(
            importance_keys=[lambda c: c.meta["unixtime"]], **options
        )
        left[kind] = sorted(path.name for path in folder.glob("CKPT+*"))
    assert left[Checkpointer] == left[SafeCheckpointer]
    assert 3 < len(left[SafeCheckpointer]) < 8
    with pytest.raises(ValueError, match="num_to_keep = -1 must not be negative"):
        setup.checkpointer.delete_checkpoints(num_to_keep=-1)


def test_custom_hooks_and_later_recoverables_still_work(tmp_path):
    notes, loaded = {"text": "one"}, {}
    setup = Setup(tmp_path, 1)
    for target, checkpointer in (
        (notes, setup.checkpointer),
        (loaded, Setup(tmp_path).checkpointer),
    ):
        checkpointer.add_recoverable(
            "notes",
            target,
            custom_save_hook=lambda obj, path: Path(path).write_text(json.dumps(obj)),
            custom_load_hook=lambda obj, path, end: obj.update(json.loads(Path(path).read_text())),
        )
        if target is notes:
            saved = checkpointer.save_checkpoint({"wer": 0.5}, end_of_epoch=False)
            assert saved.paramfiles["notes"] == saved.path / "notes.ckpt"
            assert saved.paramfiles["notes"].is_file()
        else:
            found = checkpointer.recover_if_possible()
            assert found.meta["wer"] == 0.5
            assert found.meta["end-of-epoch"] is False
    assert loaded == {"text": "one"}


def test_a_name_can_be_used_again(tmp_path):
    for number in (1, 2):
        Setup(tmp_path, number).checkpointer.save_checkpoint(name="latest")
        assert recovered_number(tmp_path) == number
    assert [path.name for path in tmp_path.glob("CKPT+*")] == ["CKPT+latest"]


def save_as_rank(rank, folder):
    published = []
    publish = checkpoints._publish
    checkpoints._publish = lambda *args: published.append(rank) or publish(*args)
    setup = Setup(folder / "save", 1)
    for _ in range(3):
        setup.checkpointer.save_and_keep_only(importance_keys=[])
    fresh = Setup(folder / "save", 5)
    fresh.checkpointer.recover_if_possible()
    return [len(published), fresh.state() == setup.state()]


def test_two_processes_save_one_checkpoint_together(tmp_path):
    assert run_in_two(save_as_rank, tmp_path) == [[3, True], [0, True]]
    assert len(list((tmp_path / "save").glob("CKPT+*"))) == 1
