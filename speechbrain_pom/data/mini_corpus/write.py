"""Write the files of a mini corpus into an empty place, in several processes if asked to."""

import collections
import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path

import soundfile

from speechbrain_pom.data.mini_corpus import espeak
from speechbrain_pom.data.mini_corpus.audio import SAMPLE_RATE, encode_flac, render_utterance
from speechbrain_pom.data.mini_corpus.files import MANIFEST_KIND, MANIFEST_NAME
from speechbrain_pom.data.mini_corpus.plan import (
    CORPUS_VERSION,
    SPLIT_SHARES,
    TEST_OTHER_SNRS_DB,
    VOCABULARY,
    Utterance,
)
from speechbrain_pom.utils.processes import map_in_processes

README_NAME = "README.TXT"
SPEAKERS_NAME = "SPEAKERS.TXT"

_README = f"""\
Mini corpus of speechbrain-pom

SYNTHETIC SPEECH. Sentences of a grammar with {len(VOCABULARY)} words were spoken by the rule-based
synthesiser eSpeak NG with artificial voices and artificial noise, in the folder layout of
LibriSpeech, so that recipes can be tried in minutes without any download. A word error rate on it
says nothing about LibriSpeech or any real speech. test-other has stronger noise than the other
test data ({", ".join(map(str, TEST_OTHER_SNRS_DB))} dB SNR in turn). manifest.json holds the
options, versions, durations and checksums; the same options and versions give the same bytes.
eSpeak NG is free software under the GPL, version 3 or later; no part of the program is in this
folder, only sound that it produced.
"""
_SPEAKERS_HEADER = """\
; Speakers of the mini corpus: synthetic voices, columns as in LibriSpeech's SPEAKERS.TXT.
; NAME is eSpeak NG's voice and variant; MINUTES is the audio of the speaker in SUBSET.
;ID  |SEX| SUBSET           |MINUTES| NAME
"""


def expected_files(plan: list[Utterance]) -> set[str]:
    """Paths of all files of a corpus, relative to its folder.

    >>> sorted(expected_files([]))
    ['README.TXT', 'SPEAKERS.TXT', 'manifest.json']
    """
    return {
        MANIFEST_NAME,
        README_NAME,
        SPEAKERS_NAME,
        *(utterance.audio_path for utterance in plan),
        *(_transcript_path(utterance) for utterance in plan),
    }


def _transcript_path(utterance):
    speaker_id = utterance.speaker.speaker_id
    return f"{utterance.chapter_folder}/{speaker_id}-{utterance.chapter_id}.trans.txt"


def write_corpus(
    folder: Path, options: dict, plan: list[Utterance], num_workers: int, show_progress: bool
) -> None:
    """Write a corpus; the manifest comes last.

    >>> folder = getfixture("tmp_path") / "empty"
    >>> write_corpus(folder, {}, [], num_workers=1, show_progress=False)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.TXT', 'SPEAKERS.TXT', 'manifest.json']
    """
    folder.mkdir()
    libraries = _library_versions()
    for chapter_folder in {utterance.chapter_folder for utterance in plan}:
        (folder / chapter_folder).mkdir(parents=True)
    files = {}
    num_samples = collections.Counter()  # by speaker
    write = functools.partial(_write_utterance, folder)
    title = "mini corpus" if show_progress else None
    entries = map_in_processes(write, plan, num_workers, bar_title=title, chunksize=8)
    for utterance, entry in zip(plan, entries, strict=True):
        files[utterance.audio_path] = entry
        num_samples[utterance.speaker] += entry["num_samples"]
    for name, text in _texts(plan, num_samples).items():
        files[name] = {"sha256": _write(folder / name, text.encode())}
    manifest = {
        "kind": MANIFEST_KIND,
        "version": CORPUS_VERSION,
        "options": options,
        "sample_rate": SAMPLE_RATE,
        "libraries": libraries,
        "splits": {split: _totals(split, plan, num_samples) for split in SPLIT_SHARES},
        "files": dict(sorted(files.items())),
    }
    _write(folder / MANIFEST_NAME, (json.dumps(manifest, indent=1) + "\n").encode())


def _write_utterance(folder, utterance):
    audio = render_utterance(utterance)
    sha256 = _write(folder / utterance.audio_path, encode_flac(audio))
    return {"sha256": sha256, "num_samples": len(audio)}


def _write(path, content):
    """Write a file; the SHA-256 of its content."""
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _texts(plan, num_samples):
    """Contents of all text files but the manifest, by path."""
    transcripts = collections.defaultdict(list)
    for utterance in plan:
        line = f"{utterance.utterance_id} {utterance.text}\n"
        transcripts[_transcript_path(utterance)].append(line)
    speakers = [
        f"{speaker.speaker_id:<4} | {speaker.sex} | {speaker.split:<16} | "
        f"{num_samples[speaker] / SAMPLE_RATE / 60:5.2f} | {speaker.voice}\n"
        for speaker in sorted(num_samples, key=lambda speaker: speaker.speaker_id)
    ]
    return {
        README_NAME: _README,
        SPEAKERS_NAME: _SPEAKERS_HEADER + "".join(speakers),
        **{path: "".join(lines) for path, lines in transcripts.items()},
    }


def _totals(split, plan, num_samples):
    speakers = [speaker for speaker in num_samples if speaker.split == split]
    return {
        "num_speakers": len(speakers),
        "num_utterances": sum(utterance.speaker.split == split for utterance in plan),
        "num_samples": sum(num_samples[speaker] for speaker in speakers),
    }


def _library_versions():
    packages = ("espeakng-loader", "numpy", "scipy", "soundfile")
    return {
        "espeak-ng": espeak.version(),
        "libsndfile": soundfile.__libsndfile_version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
