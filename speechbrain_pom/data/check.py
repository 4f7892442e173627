"""Full checks of speech data: every file is decoded, and every problem is listed."""

import os
from functools import partial
from math import inf
from pathlib import Path

from speechbrain.dataio.dataio import load_data_csv, load_data_json

from speechbrain_pom.data.audio.files import format_problems, inspect_audio, resampled_length
from speechbrain_pom.data.audio_folder import describe_unread, read_files, scan_folder
from speechbrain_pom.data.chapters import describe_unread_in_layout, read_chapters, scan_split
from speechbrain_pom.data.check_parts import Group, check_part
from speechbrain_pom.data.check_report import CheckReport
from speechbrain_pom.data.layout import (
    check_data_folder,
    check_is_folder,
    check_splits,
    find_splits,
)
from speechbrain_pom.data.records import BadUtterance, check_max_bad_share
from speechbrain_pom.utils.errors import UserError, one_line
from speechbrain_pom.utils.parts import WHOLE, Part
from speechbrain_pom.utils.processes import map_in_processes, num_processes

LAYOUTS = ("librispeech", "folder")
"""How a folder is arranged: SPLIT/SPEAKER/CHAPTER, or audio of any format at any depth."""

_DURATION_TOLERANCE_S = 0.01  # of a manifest without num_samples


def check_data(
    data_folder: str | Path,
    splits: list[str] | None = None,
    manifest: str | Path | None = None,
    *,
    data_layout: str | None = None,
    need_transcripts: bool = True,
    max_bad_share: float = 0.0,
    min_duration_s: float = 0.0,
    max_duration_s: float = inf,
    num_workers: int | None = None,
    show_progress: bool = True,
    part: Part = WHOLE,
    records: str | Path | None = None,
) -> CheckReport | None:
    """Decode every file of a folder in LibriSpeech's layout, of any other, or of a manifest.

    Listed are files that are missing, unreadable, truncated or damaged, empty, silent, of another
    format than 16 kHz mono, too short or too long, or hold samples that are not finite;
    transcripts that are missing, empty or given twice; and, of a manifest, lengths that are not
    those of the files: exact with a column `num_samples`, else within 0.01 s of `duration`.
    A folder of own audio has no transcripts; its files may have any sample rate and several
    channels, and so may those of a manifest with a column `sample_rate` (see
    `prepare_audio_folder`). Audio that is not read, because of the ending of its name, is counted
    and named in the report.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder that holds the splits, or the audio; with a manifest, what its `$data_root`
        (CSV) or `{data_root}` (JSON) stands for.
    splits : list of str, optional
        Folders in it; all that look like splits by default. Not with a manifest.
    manifest : str or pathlib.Path, optional
        A `.csv` or `.json` file as SpeechBrain's `DynamicItemDataset` reads them, with ID,
        `duration` (seconds), `wav` and optionally `wrd`.
    data_layout : str, optional
        `"librispeech"` or `"folder"`: own audio of any format, at any depth, as the recipes
        take it; by default the former where there are splits. Not with a manifest.
    need_transcripts : bool
        Whether each utterance must have a transcript. A manifest that has none at all is one for
        pretraining; the report says so.
    max_bad_share : float
        The share of bad utterances that is allowed, 0 <= x < 1.
    min_duration_s, max_duration_s : float
        Utterances outside of these, in seconds, are bad.
    num_workers : int, optional
        Processes that decode; the CPU cores of this process by default.
    show_progress : bool
        Whether progress bars are shown.
    part : Part
        The part of the files that this call decodes, when many share the work.
    records : str or pathlib.Path, optional
        The folder for what each part has found.

    Returns
    -------
    CheckReport or None
        Of a part None, unless all others are finished: then that of all parts.

    Raises
    ------
    UserError
        If an argument is wrong, a folder, split or manifest is missing or not readable, or the
        records are of another check.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> root = getfixture("tmp_path")
    >>> soundfile.write(root / "a.wav", np.ones(800) / 2, 16000)
    >>> _ = (root / "a.csv").write_text("ID,duration,wav\\na,0.1,$data_root/a.wav\\n")
    >>> report = check_data(root, manifest=root / "a.csv", show_progress=False)
    >>> report.bad[0].problems["length"]
    'lasts 0.050 s, its manifest says 0.1 s: prepare the manifest again'
    """
    data_folder = Path(data_folder)
    num_workers = num_processes(num_workers)
    check_max_bad_share(max_bad_share)
    _check_durations(min_duration_s, max_duration_s)
    _check_choices(splits, manifest, data_layout)
    if manifest is not None:
        title, notes = str(manifest), []
        groups = [_rows(data_folder, Path(manifest), need_transcripts, num_workers, notes)]
    else:
        check_is_folder(data_folder, "the folder that holds the splits, or your audio files")
        if (data_layout or _guess_layout(data_folder, splits)) == "folder":
            title, notes, groups = _files(data_folder, num_workers)
        else:
            title, notes, groups = _chapters(data_folder, splits, need_transcripts, num_workers)
    if part == WHOLE:
        bars = [group.title if show_progress else None for group in groups]
        checked = (group.check(group.units, bar) for group, bar in zip(groups, bars, strict=True))
        results = [item for items in checked for item in items]
    elif records is None:
        raise UserError(f"part is {part}: give records, a folder that all parts share")
    else:
        settings = {"title": title, "need_transcripts": need_transcripts}
        results = check_part(groups, Path(records), part, settings, show_progress)
        if results is None:
            return None
    limited = [_limit_duration(item, min_duration_s, max_duration_s) for item in results]
    good = [item.duration_s for item in limited if not item.problems]
    bad = [item for item in limited if item.problems]
    return CheckReport(title, good, bad, max_bad_share, notes)


def _check_choices(splits, manifest, data_layout):
    if manifest is not None and splits is not None:
        raise UserError(f"splits {splits} and manifest '{manifest}' are both given: choose one")
    if data_layout not in (None, *LAYOUTS):
        raise UserError(f"data_layout is {data_layout!r}: choose {' or '.join(LAYOUTS)}")
    if data_layout is not None and manifest is not None:
        raise UserError(
            f"data_layout {data_layout} and manifest '{manifest}' are both given: choose one"
        )
    if data_layout == "folder" and splits is not None:
        raise UserError(f"splits {splits} are of data_layout librispeech: leave them out")


def _guess_layout(data_folder, splits):
    return "librispeech" if splits is not None or find_splits(data_folder) else "folder"


def _check_durations(min_duration_s, max_duration_s):
    if not 0 <= min_duration_s <= max_duration_s:
        raise UserError(
            f"min_duration_s {min_duration_s:g} and max_duration_s {max_duration_s:g} leave "
            "nothing: give 0 <= min_duration_s <= max_duration_s"
        )


def _limit_duration(item, min_duration_s, max_duration_s):
    """The utterance, with what is wrong with its duration where that is known."""
    if item.duration_s == 0 or min_duration_s <= item.duration_s <= max_duration_s:
        return item
    if item.duration_s < min_duration_s:
        kind, limit = "too short", f"less than min_duration_s={min_duration_s:g}"
        advice = "change the limit"
    else:
        kind, limit = "too long", f"more than max_duration_s={max_duration_s:g}"
        advice = "split it or change the limit"
    problem = {kind: f"lasts {item.duration_s:g} s, {limit}: {advice}"}
    return item._replace(problems=item.problems | problem)


def _files(data_folder, num_workers):
    """Title, notes and work: the files of a folder."""
    scan = scan_folder(data_folder)
    notes = ["own audio, without transcripts: for pretraining"]
    notes += [describe_unread(scan.unread)] if scan.unread else []

    def check(files, bar):
        rows, bad = read_files(data_folder, files, "decode", num_workers, bar)
        return [_good(row) for row in rows] + bad

    return str(data_folder), notes, [Group(data_folder.name, scan.files, check)]


def _chapters(data_folder, splits, need_transcripts, num_workers):
    """Title, notes and work: the chapters of each split."""
    if splits is None:
        splits = find_splits(data_folder)
        if not splits:
            raise UserError(
                f"data folder '{data_folder}' has no SPLIT/SPEAKER/CHAPTER/*.flac: pass the "
                "folder that holds the splits, a manifest of its files, or data_layout folder"
            )
    splits = check_splits(splits)
    check_data_folder(data_folder, splits)

    def check(chapters, bar):
        given = data_folder, chapters, need_transcripts, "decode", num_workers, bar
        rows, bad = read_chapters(*given)
        return [_good(row) for row in rows] + bad

    groups, notes = [], []
    for split in splits:
        scan = scan_split(data_folder, split)
        if scan.unread:
            notes.append(f"{split}: {describe_unread_in_layout(scan.unread)}")
        groups.append(Group(split, scan.chapters, check, unique_ids=True))
    return f"{data_folder}: {', '.join(splits)}", notes, groups


def _good(row):
    file = row["wav"].removeprefix("$data_root/")
    return BadUtterance(row["ID"], file, row["duration"], {})


def _rows(data_folder, manifest, need_transcripts, num_workers, notes):
    """The work: the rows of a manifest; a note is added where it has no transcripts."""
    rows = _load_manifest(manifest, data_folder)
    with_text = any(str(row.get("wrd") or "").strip() for row in rows.values())
    if need_transcripts and not with_text:
        notes.append("no utterance has a transcript: a manifest for pretraining only")
    check_row = partial(_check_row, str(data_folder), need_transcripts and with_text)

    def check(items, bar):
        results = map_in_processes(check_row, items, num_workers, bar_title=bar, chunksize=16)
        return list(results)

    return Group(manifest.name, list(rows.items()), check)


def _load_manifest(path, data_folder):
    loaders = {".csv": load_data_csv, ".json": load_data_json}
    if path.suffix not in loaders:
        raise UserError(f"manifest '{path}' is neither .csv nor .json: pass one of these")
    try:
        rows = loaders[path.suffix](path, {"data_root": str(data_folder)})
    except OSError as error:
        raise UserError(
            f"manifest '{path}' cannot be read ({error.strerror}): pass one that is there"
        ) from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"manifest '{path}' is not one that SpeechBrain reads ({one_line(error)}): only "
            "data_root is replaced, IDs are unique"
        ) from None
    if not rows or not isinstance(rows, dict):
        raise UserError(f"manifest '{path}' holds no utterances: prepare the data again")
    for utterance, row in rows.items():
        try:
            numbers = [float(row["duration"]), int(row.get("num_samples") or 0)]
            valid = isinstance(row["wav"], str) and min(numbers) >= 0
            valid = valid and int(row.get("sample_rate") or 1) > 0
        except (AttributeError, KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise UserError(
                f"manifest '{path}', ID '{utterance}': it needs wav (a path), duration (seconds) "
                "and, if present, num_samples and sample_rate (integers): prepare it again"
            )
    return rows


def _check_row(data_folder, need_transcripts, item):
    """One utterance of a manifest, with its problems."""
    utterance, row = item
    path = row["wav"]
    facts = inspect_audio(path, "decode")
    problems = dict(facts.problems)
    if facts.sample_rate:
        problems |= _mismatches(facts, row)
    if need_transcripts and not str(row.get("wrd") or "").strip():
        kind = "missing transcript" if row.get("wrd") is None else "empty transcript"
        problems[kind] = f"{kind} (wrd): add its words, or remove the row"
    file = path.removeprefix(data_folder + os.sep)
    return BadUtterance(utterance, file, facts.duration_s, problems)


def _mismatches(facts, row):
    """Where a file is not what its row in the manifest says."""
    advice = "prepare the manifest again"
    if not row.get("sample_rate"):
        problems, num_samples = format_problems(facts), facts.num_samples
    else:
        problems, num_samples = {}, resampled_length(facts.num_samples, facts.sample_rate)
        if facts.sample_rate != int(row["sample_rate"]):
            says = f"its manifest says {row['sample_rate']} Hz"
            problems["sample rate"] = f"sample rate {facts.sample_rate} Hz, {says}: {advice}"
    if row.get("num_samples"):
        if num_samples != int(row["num_samples"]):
            says = f"its manifest says {row['num_samples']}"
            problems["length"] = f"has {num_samples} samples, {says}: {advice}"
    elif abs(facts.duration_s - float(row["duration"])) > _DURATION_TOLERANCE_S:
        says = f"its manifest says {row['duration']} s"
        problems["length"] = f"lasts {facts.duration_s:.3f} s, {says}: {advice}"
    return problems
