"""Manifests of LibriSpeech, or of any folder in its layout (see `layout`)."""

import logging
from functools import partial
from pathlib import Path

from speechbrain_pom.data.chapters import describe_unread_in_layout, read_chapters, scan_split
from speechbrain_pom.data.layout import check_data_folder, check_splits
from speechbrain_pom.data.records import check_options, inspection_s, update_manifest
from speechbrain_pom.utils.errors import UserError

_RECORD_VERSION = 2  # raise it when the same folder would give another manifest

logger = logging.getLogger(__name__)


def prepare_librispeech(
    data_folder: str | Path,
    splits: list[str],
    manifest_folder: str | Path,
    num_workers: int | None = None,
    show_progress: bool = True,
    need_transcripts: bool = True,
    max_bad_share: float = 0.0,
    check_data: str = "headers",
) -> dict[str, Path]:
    """Write `SPLIT.csv` for each split that is asked for, unless it is there and up to date.

    `SPLIT.json` records what the manifest was made from (path, size and time of every audio and
    transcript file) and how that was checked: it is made again when any of that, the folder, or
    the manifest itself changed, or when a deeper check is asked for. `SPLIT.problems.json` lists
    the bad utterances, if any.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder that holds the splits (LibriSpeech's own is called `LibriSpeech`).
    splits : list of str
        Names of folders in `data_folder`, for example `["train-clean-100", "dev-clean"]`.
    manifest_folder : str or pathlib.Path
        Where the manifests go; made if needed.
    num_workers : int, optional
        Processes that read audio; the CPU cores of this process by default.
    show_progress : bool
        Whether a progress bar is shown.
    need_transcripts : bool
        Whether each utterance must have a transcript. If not, transcript files are not read,
        and the column `wrd` is empty.
    max_bad_share : float
        The share of a split's utterances that may be left out because they are bad, 0 <= x < 1.
    check_data : str
        `"headers"`: the header and the last sample of each file are read (0.1 ms), which finds
        truncated files. `"decode"`: every sample is (3 ms), once for each state of the data.

    Returns
    -------
    dict of str to pathlib.Path
        Split to manifest, in the order of `splits`.

    Raises
    ------
    UserError
        If an argument is wrong, a folder or split is missing, `manifest_folder` cannot be
        written, or more utterances are bad than `max_bad_share` allows: audio that is
        missing, unreadable, truncated, empty, not 16 kHz or not mono; a transcript that is
        missing, empty or given twice; an ID that occurs twice; with `"decode"` also damage
        anywhere, silence and samples that are not finite. The message names the first ten of
        each split.

    Example
    -------
    >>> import soundfile
    >>> import numpy as np
    >>> root = getfixture("tmp_path")
    >>> chapter = root / "dev-clean" / "84" / "121123"
    >>> chapter.mkdir(parents=True)
    >>> soundfile.write(chapter / "84-121123-0000.flac", np.zeros(8000), 16000)
    >>> _ = (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO ON\\n")
    >>> paths = prepare_librispeech(root, ["dev-clean"], root / "csv", show_progress=False)
    >>> paths["dev-clean"].read_text().splitlines()[1]
    '84-121123-0000,0.5,8000,$data_root/dev-clean/84/121123/84-121123-0000.flac,84,GO ON'
    """
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    splits = check_splits(splits)
    num_workers = check_options(max_bad_share, check_data, num_workers)
    check_data_folder(data_folder, splits)

    scans = {split: scan_split(data_folder, split) for split in splits}
    for split, scan in scans.items():
        if scan.unread:
            logger.warning("%s: %s", split, describe_unread_in_layout(scan.unread))
    manifests = {split: manifest_folder / f"{split}.csv" for split in splits}
    source = {
        "version": _RECORD_VERSION,
        "data_folder": str(data_folder.resolve()),
        "need_transcripts": bool(need_transcripts),
        "check_data": check_data,
    }
    errors = []
    for split, scan in scans.items():
        options = (bool(need_transcripts), check_data, num_workers)
        title = split if show_progress else None
        read = partial(read_chapters, data_folder, scan.chapters, *options, title)
        fingerprint = {"fingerprint": scan.fingerprint}
        num_files = sum(len(chapter.audio) for chapter in scan.chapters)
        expected_s = inspection_s(num_files, check_data, num_workers)
        try:
            update_manifest(manifests[split], source | fingerprint, read, max_bad_share, expected_s)
        except UserError as error:  # the other splits' problems belong in the same message
            errors.append(str(error))
    if errors:
        raise UserError(" | ".join(errors))
    return manifests
