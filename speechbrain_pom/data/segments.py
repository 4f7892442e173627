"""Utterances that are parts of long recordings, cut into files of their own."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import soundfile

from speechbrain_pom.data.audio.files import inspect_audio
from speechbrain_pom.utils.files import publish_file, temporary_beside
from speechbrain_pom.utils.processes import map_in_processes


class Segment(NamedTuple):
    """A part of a recording.

    Arguments
    ---------
    name : str
        Of the file, without ending; another one for other times.
    start_s, end_s : float
    """

    name: str
    start_s: float
    end_s: float


class Recording(NamedTuple):
    """A recording with the parts that are wanted of it.

    Arguments
    ---------
    path : pathlib.Path
    segments : sequence of Segment
    """

    path: Path
    segments: Sequence[Segment]


def cut_recordings(
    recordings: Sequence[Recording],
    folder: str | Path,
    *,
    num_workers: int = 1,
    show_progress: bool = True,
) -> dict[str, dict[str, str]]:
    """Write every segment as `folder/NAME.flac`, sample by sample as in its recording.

    A segment that was cut from the recording as it is now is kept.

    Arguments
    ---------
    recordings : sequence of Recording
    folder : str or pathlib.Path
    num_workers : int
        Processes, each with a recording at a time.
    show_progress : bool

    Returns
    -------
    dict
        For each segment that could not be cut: name to problems, kind to a sentence.

    Example
    -------
    >>> import numpy as np
    >>> root = getfixture("tmp_path")
    >>> soundfile.write(root / "a.wav", np.arange(800) / 1000, 100)
    >>> wanted = [Segment("first", 1.0, 2.5), Segment("last", 7.0, 9.0)]
    >>> cut_recordings([Recording(root / "a.wav", wanted)], root / "cut", show_progress=False)
    {'last': {'too short': 'ends at 8.000 s, before the end of this part (9.000 s): restore it'}}
    >>> soundfile.info(root / "cut/first.flac").frames
    150
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    title = "segments" if show_progress else None
    cut = partial(_cut, Path(folder))
    results = map_in_processes(cut, recordings, num_workers, bar_title=title)
    return {name: problems for found in results for name, problems in found.items()}


def _cut(folder, recording):
    facts = inspect_audio(recording.path)
    if facts.problems:
        return {segment.name: facts.problems for segment in recording.segments}
    changed_ns, problems = os.stat(recording.path).st_mtime_ns, {}
    with soundfile.SoundFile(recording.path) as audio:
        for segment in recording.segments:
            start = round(segment.start_s * facts.sample_rate)
            length = round(segment.end_s * facts.sample_rate) - start
            if start + length > facts.num_samples:
                problems[segment.name] = {
                    "too short": f"ends at {facts.duration_s:.3f} s, before the end of this part "
                    f"({segment.end_s:.3f} s): restore it"
                }
            else:
                target = folder / f"{segment.name}.flac"
                if not _is_current(target, length, changed_ns):
                    audio.seek(start)
                    _write(target, audio.read(length), audio)
    return problems


def _is_current(target, length, changed_ns):
    if not target.is_file() or os.stat(target).st_mtime_ns <= changed_ns:
        return False
    return inspect_audio(target).num_samples == length


def _write(target, samples, audio):
    """FLAC has 16 or 24 bits: what has more loses what is below the 24th."""
    subtype = "PCM_16" if audio.subtype in ("PCM_16", "PCM_S8", "PCM_U8") else "PCM_24"
    temporary = temporary_beside(target, "part")
    soundfile.write(temporary, samples, audio.samplerate, subtype, format="FLAC")
    publish_file(temporary, target)
