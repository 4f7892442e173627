"""Names of outputs: unique, and refused before the work where they cannot be written."""

import os
from pathlib import Path

import pytest

from speechbrain_pom.inference.jobs import outputs
from speechbrain_pom.inference.jobs.outputs import check_outputs, output_names
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["x/a.wav"], ["a"]),
        (["x/a.wav", "x/b/a.wav"], ["a", "b/a"]),
        (["x/a.wav", "y/a.flac"], ["x/a", "y/a"]),
        (["x/a.wav", "x/a.flac", "x/b.wav"], ["a.wav", "a.flac", "b"]),
        (["x/a.wav", "x/a.flac", "x/a.wav.mp3"], ["a.wav", "a.flac", "a.wav.mp3"]),
        (["x/a.b.wav", "x/a"], ["a.b", "a"]),
        ([], []),
    ],
)
def test_output_names(files, expected):
    assert output_names(list(map(Path, files))) == dict(
        zip(map(Path, files), expected, strict=True)
    )


def refusal(out, **names):
    with pytest.raises(UserError) as caught:
        check_outputs(out, {Path(file): list(made) for file, made in names.items()})
    return str(caught.value)


@pytest.mark.parametrize("letter", ["x", "\u00fc"])  # one byte, two bytes
def test_the_longest_name_that_the_file_system_holds(tmp_path, letter):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    count = (longest - len(".json")) // len(letter.encode())
    name = f"{letter * count}.json"
    check_outputs(tmp_path, {Path("a.wav"): [name, f"deep/{name}"]})
    write_atomically(tmp_path / name, "{}")  # whose temporary file has a name too
    assert os.listdir(tmp_path) == [name]
    size = len(os.fsencode(f"{letter}{name}"))
    for path in (f"{letter}{name}", f"{letter}{name}/a.json", f"deep/{letter}{name}"):
        message = refusal(tmp_path, a=[path])
        assert message == (
            f"the name '{letter}{name}' has {size} bytes, and names in '{tmp_path}' have at most "
            f"{longest}: give a shorter one"
        )
    with pytest.raises(OSError, match="too long"):  # the test can fail
        (tmp_path / f"{letter}{name}").touch()


def test_a_path_that_is_too_long(tmp_path):
    message = refusal(tmp_path, a=["/".join(["folder"] * 800)])
    assert message.startswith("a path of ")
    assert message.endswith("here: give a shorter one")


def test_two_files_in_one_place(tmp_path, monkeypatch):
    assert refusal(tmp_path, a=["x.txt"], b=["x.txt"]) == (
        f"--out '{tmp_path}': 'a' and 'b' would both be written to x.txt: rename one, or give "
        "them different folders"
    )
    assert refusal(tmp_path, a=["x.npy"], b=["x.npy/y.npy"]) == (
        f"--out '{tmp_path}': x.npy is to be made of 'a', and a folder for 'b': rename one of them"
    )
    check_outputs(tmp_path, {Path("a"): ["x.txt"], Path("b"): ["X.txt"]})
    monkeypatch.setattr(outputs, "_folding", lambda folder: str.casefold)  # as of other systems
    assert "'a' and 'b' would both be written to X.txt" in refusal(
        tmp_path, a=["x.txt"], b=["X.txt"]
    )


def test_audio_and_folders_are_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.txt").write_bytes(b"audio, whatever its name")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, Path("link")):
        message = refusal(out, **{"talk.txt": ["talk.txt"]})
        assert "talk.txt, to be made of 'talk.txt', is an audio file or a folder: give" in message
    assert "folder.txt, to be made of 'a', is an audio file" in refusal(tmp_path, a=["folder.txt"])
    assert sorted(os.listdir(tmp_path)) == ["folder.txt", "link", "talk.txt"]
