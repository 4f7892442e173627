"""Full disks: said, never died of."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from speechbrain_pom.inference import transcription
from speechbrain_pom.utils.disks import check_name, explain_full_disk, reserve, why_not_written
from speechbrain_pom.utils.errors import UserError, exit_on_user_error
from speechbrain_pom.utils.files import write_atomically


@pytest.fixture
def limited_files():
    """No file may have more than 100000 bytes, as on a disk with little room."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("num_bytes", [0, 1, 63, 500, 2**20 + 1])
@pytest.mark.parametrize("is_known", [True, False])
def test_room_is_reserved_with_the_right_length(tmp_path, monkeypatch, num_bytes, is_known):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if not is_known:
        monkeypatch.setattr(os, "posix_fallocate", unknown)
    with open(tmp_path / "a", "wb") as stream:
        stream.write(b"header")
        reserve(stream, 6 + num_bytes)
    assert (tmp_path / "a").read_bytes() == b"header" + bytes(num_bytes)
    assert (tmp_path / "a").stat().st_blocks * 512 >= num_bytes


@pytest.mark.parametrize("is_known", [True, False])
def test_no_room_is_said_before_anything_is_mapped(tmp_path, limited_files, monkeypatch, is_known):
    if not is_known:
        monkeypatch.delattr(os, "posix_fallocate")
    with (
        pytest.raises(UserError) as caught,
        explain_full_disk(tmp_path, "give another --out"),
        open(tmp_path / "a", "wb") as stream,
    ):
        reserve(stream, 200000)
    assert str(caught.value) == (
        f"disk full: no room in '{tmp_path}': make room, or give another --out"
    )


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), explain_full_disk(tmp_path, "x"):
        (tmp_path / "no/file").touch()
    assert why_not_written(PermissionError(errno.EACCES, "Permission denied"), tmp_path) == (
        "Permission denied"
    )
    assert why_not_written(RuntimeError("I/O error: No space left on device"), ".") == "disk full"


def test_a_command_ends_with_one_line(tmp_path, limited_files, capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        write_atomically(tmp_path / "train.csv", bytes(200000))
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        f"error: disk full: '{tmp_path / 'train.csv'}' cannot be written: make room, or choose a "
        "folder on another disk\n"
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(IsADirectoryError), exit_on_user_error():
        raise IsADirectoryError(errno.EISDIR, "Is a directory")


def test_names_are_checked_up_to_the_first_folder_that_exists(tmp_path):
    check_name(tmp_path / "a" / "b")
    with pytest.raises(UserError, match=f"^the name '{300 * 'x'}' has 300 bytes, and names in"):
        check_name(tmp_path / "a" / (300 * "x") / "b")


ON_A_FULL_DISK = """
import os, sys, tempfile, torch
from speechbrain_pom.inference import transcription
torch.manual_seed(0)
try:
    {call}
except ValueError as error:
    print(error)
print(os.listdir(sys.argv[1]))
"""
UNRESERVED = """
    file = os.path.join(sys.argv[1], "a")
    torch.from_file(file, shared=True, size=2**20, dtype=torch.float32).fill_(1.0)
"""
RESERVED = """
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        transcription._on_disk(folder, "a", (2**20,), torch.float32).fill_(1.0)
"""


def on_a_small_disk(tmp_path, call):
    """Run a script where a file system of 300 kB can be mounted."""
    (tmp_path / "disk").mkdir()
    script = tmp_path / "script.py"
    script.write_text(ON_A_FULL_DISK.format(call=call))
    mount = f"mount -t tmpfs -o size=300k tmpfs {tmp_path / 'disk'}"
    unshare = ["unshare", "-rm", "sh", "-c"]
    trial = shutil.which("unshare") and subprocess.run([*unshare, mount], capture_output=True)
    if not trial or trial.returncode:
        pytest.skip("no small file system can be mounted here")
    command = f"{mount} && exec {sys.executable} {script} {tmp_path / 'disk'}"
    return subprocess.run([*unshare, command], capture_output=True, text=True, timeout=120)


def test_a_map_without_reserved_room_kills_the_process(tmp_path):
    """What `reserve` is for."""
    result = on_a_small_disk(tmp_path, UNRESERVED)
    assert result.returncode not in (0, 1)
    assert result.stdout == ""


def test_temporary_files_on_a_full_disk(tmp_path):
    result = on_a_small_disk(tmp_path, RESERVED)
    folder = tmp_path / "disk"
    assert result.stdout == (
        f"disk full: no room in '{folder}': make room, or set TMPDIR to a folder on another disk\n"
        "[]\n"
    ), result.stderr
    assert result.returncode == 0


def test_a_tensor_on_a_disk_with_room(tmp_path):
    tensor = transcription._on_disk(str(tmp_path), "a", (3, 500), torch.float32)
    tensor.fill_(0.5)
    assert tensor.shape == (3, 500)
    assert (tmp_path / "a").stat().st_size == 6000
