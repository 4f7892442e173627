"""The chapters of a split in LibriSpeech's layout: rows of a manifest, and bad utterances."""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

from speechbrain_pom.data.audio.files import (
    format_problems,
    has_placeholder,
    inspect_audio,
    path_problems,
)
from speechbrain_pom.data.audio.formats import first_names, is_audio_name, looks_like_audio
from speechbrain_pom.data.layout import file_stamp, list_entries, list_subfolders
from speechbrain_pom.data.manifest import COLUMNS
from speechbrain_pom.data.records import BadUtterance
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.processes import map_in_processes


class Chapter(NamedTuple):
    """A folder with audio and transcripts."""

    folder: str  # SPLIT/SPEAKER/CHAPTER
    audio: tuple  # file names, sorted
    transcripts: tuple  # file names, sorted
    unread: tuple = ()  # file names of other audio, sorted


class SplitScan(NamedTuple):
    """What a split holds."""

    chapters: list  # of Chapter
    fingerprint: str  # another one whenever a file changed

    @property
    def unread(self) -> list[str]:
        """Paths, in the data folder, of audio files that are no `.flac`, and are not read."""
        return [f"{item.folder}/{name}" for item in self.chapters for name in item.unread]


def scan_split(data_folder: Path, split: str) -> SplitScan:
    """List a split's chapters, and digest paths, sizes and times of their files.

    >>> chapter = getfixture("tmp_path") / "dev-clean" / "84" / "121123"
    >>> chapter.mkdir(parents=True)
    >>> (chapter / "84-121123-0000.flac").touch()
    >>> scan = scan_split(getfixture("tmp_path"), "dev-clean")
    >>> scan.chapters[0].folder, scan.chapters[0].audio, scan.unread
    ('dev-clean/84/121123', ('84-121123-0000.flac',), [])
    """
    digest, chapters = hashlib.sha256(), []
    for speaker in list_subfolders(data_folder / split):
        for chapter in list_subfolders(speaker):
            entries = list_entries(chapter)
            files = [entry for entry in entries if entry.name.endswith((".flac", ".trans.txt"))]
            folder = Path(chapter).relative_to(data_folder).as_posix()
            for entry in files:
                digest.update(os.fsencode(f"{folder}/{entry.name}\0{file_stamp(entry)}\n"))
            audio = tuple(e.name for e in files if e.name.endswith(".flac"))
            transcripts = tuple(e.name for e in files if not e.name.endswith(".flac"))
            unread = tuple(e.name for e in entries if e not in files and _is_audio(e))
            if files or unread:
                chapters.append(Chapter(folder, audio, transcripts, unread))
    scan = SplitScan(chapters, digest.hexdigest())
    if not any(chapter.audio for chapter in chapters):
        but = f"; {describe_unread_in_layout(scan.unread)}" if scan.unread else ""
        raise UserError(
            f"split '{split}' in '{data_folder}' holds no SPEAKER/CHAPTER/*.flac: "
            f"unpack it again, or ask for other splits{but}"
        )
    return scan


def _is_audio(entry):
    return is_audio_name(entry.name) or (entry.is_file() and looks_like_audio(entry.path) != "")


def describe_unread_in_layout(files: list[str]) -> str:
    """What is said of audio in LibriSpeech's layout that is no `.flac`.

    >>> describe_unread_in_layout(["dev/1/2/a.wav"])
    '1 audio file(s) are no .flac, and are not read: convert dev/1/2/a.wav'
    """
    return (
        f"{len(files)} audio file(s) are no .flac, and are not read: convert {first_names(files)}"
    )


def read_chapters(
    data_folder: Path,
    chapters: list[Chapter],
    need_transcripts: bool,
    check_data: str,
    num_workers: int,
    bar_title: str | None,
) -> tuple[list[dict], list[BadUtterance]]:
    """Check the utterances of chapters, in several processes."""
    read = partial(_read_chapter, str(data_folder), need_transcripts, check_data)
    rows, bad = {}, []
    sizes = [len(chapter.audio) for chapter in chapters]
    for chapter_rows, chapter_bad in map_in_processes(
        read, chapters, num_workers, bar_title=bar_title, sizes=sizes
    ):
        for row in chapter_rows:
            first = rows.setdefault(row["ID"], row)
            if first is not row:
                file, other = (item["wav"].removeprefix("$data_root/") for item in (row, first))
                problem = {"same ID": f"has the same ID as {other}: rename one"}
                bad.append(BadUtterance(row["ID"], file, row["duration"], problem))
        bad += chapter_bad
    return list(rows.values()), bad


def _read_chapter(data_folder, need_transcripts, check_data, chapter):
    """Return the chapter's manifest rows and its bad utterances."""
    speaker = chapter.folder.split("/")[-2]
    texts, absent = read_transcripts(data_folder, chapter) if need_transcripts else ({}, "")
    rows, bad = [], []
    for name in chapter.audio:
        utterance, file = name.removesuffix(".flac"), f"{chapter.folder}/{name}"
        facts = inspect_audio(os.path.join(data_folder, file), check_data)
        problems = facts.problems | format_problems(facts) | path_problems(file)
        found = texts.pop(utterance, []) if need_transcripts else [""]
        if need_transcripts:
            problems |= _transcript_problems(found, absent)
        if problems:
            bad.append(BadUtterance(utterance, file, facts.duration_s, problems))
        else:
            size = (facts.duration_s, facts.num_samples)
            values = (utterance, *size, f"$data_root/{file}", speaker, found[0])
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    for utterance in sorted(texts):
        others = [name for name in chapter.unread if os.path.splitext(name)[0] == utterance]
        advice = f"convert {others[0]} to FLAC" if others else "restore it"
        problem = {"missing file": f"has a transcript but no audio: {advice}"}
        bad.append(BadUtterance(utterance, f"{chapter.folder}/{utterance}.flac", 0.0, problem))
    return rows, bad


def read_transcripts(data_folder: str, chapter: Chapter) -> tuple[dict[str, list[str]], str]:
    """{utterance: [each transcript given for it]}, and why one that is absent is so."""
    if not chapter.transcripts:
        name = "-".join(chapter.folder.split("/")[-2:]) + ".trans.txt"
        return {}, f"no transcript: {chapter.folder}/{name} is missing, restore it"
    texts = {}
    for name in chapter.transcripts:
        try:
            text = Path(data_folder, chapter.folder, name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            return {}, f"no transcript: {chapter.folder}/{name} is unreadable ({error})"
        for words in filter(None, map(str.split, text.split("\n"))):
            texts.setdefault(words[0], []).append(" ".join(words[1:]))
    return texts, f"no transcript: add its line to {chapter.folder}/{chapter.transcripts[0]}"


def _transcript_problems(found, absent):
    if not found:
        return {"missing transcript": absent}
    if len(found) > 1:
        return {"several transcripts": f"{len(found)} transcripts in its chapter: keep one line"}
    if not found[0]:
        sentence = "empty transcript: add its words, or keep line and audio elsewhere"
        return {"empty transcript": sentence}
    if has_placeholder(found[0]):
        sentence = f"transcript '{found[0]}' holds '$', a placeholder in manifests: write it out"
        return {"placeholder": sentence}
    return {}
