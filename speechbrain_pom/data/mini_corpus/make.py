"""The mini corpus: a small synthetic corpus in LibriSpeech's layout, made offline.

`plan` decides what is said by whom, `audio` renders it, `write` writes the files, and this module
decides what may and must be done with a folder. A corpus is a pure function of its options, of
`CORPUS_VERSION` and of the libraries that its manifest names, whatever the number of workers.
"""

import logging
import math
import os
import pathlib
import shutil
from pathlib import Path

from speechbrain_pom.data.mini_corpus.files import (
    list_entries,
    only_writer,
    read_manifest,
    verify_mini_corpus,
)
from speechbrain_pom.data.mini_corpus.plan import CORPUS_VERSION, Utterance, plan_corpus
from speechbrain_pom.data.mini_corpus.write import expected_files, write_corpus
from speechbrain_pom.utils.errors import UserError, is_disk_full
from speechbrain_pom.utils.files import publish_folder
from speechbrain_pom.utils.processes import num_processes

logger = logging.getLogger(__name__)

DEFAULT_DURATION_MIN = 15.0
MIN_DURATION_MIN = 0.5

# Up to this, one process needs less than a minute, and a recipe's own process is not forked.
_SINGLE_PROCESS_MIN = 60


def make_mini_corpus(
    out: str | Path,
    duration_min: float = DEFAULT_DURATION_MIN,
    seed: int = 0,
    num_workers: int | None = None,
    show_progress: bool = True,
    force: bool = False,
) -> Path:
    """Make a mini corpus, or leave it alone when it is there, complete and intact.

    It is written to a hidden folder beside `out`, checked and then renamed, so that `out` is
    complete or absent. A damaged or incomplete corpus of the same options is made again. Several
    processes may call this for one folder at the same time: one writes, the others wait.

    Arguments
    ---------
    out : str or pathlib.Path
        Folder of the corpus, in LibriSpeech's layout; its parent folders are created.
    duration_min : float
        Audio in all splits together, in minutes (within a few per cent), 0.5 or more.
    seed : int
        Seed of sentences, speakers and noise, 0 or more.
    num_workers : int, optional
        Processes that synthesise. Default: 1 up to one hour of audio, then one per CPU core.
    show_progress : bool
        Whether to show a progress bar.
    force : bool
        Whether a mini corpus with other options, or with other files in it, may be replaced.
        A folder that is no mini corpus is never touched.

    Returns
    -------
    pathlib.Path
        Absolute path of the corpus.

    Raises
    ------
    UserError
        For an option that cannot work, a folder with other content, a folder that cannot be
        written, or when `espeakng-loader` is missing.

    Example
    -------
    >>> out = make_mini_corpus(getfixture("tmp_path") / "mini", 0.5, show_progress=False)
    >>> sorted(path.name for path in out.iterdir() if path.is_dir())
    ['dev-clean', 'test-clean', 'test-other', 'train-clean-100']
    >>> verify_mini_corpus(out)
    """
    _check_options(duration_min, seed, num_workers)
    options = {"duration_min": float(duration_min), "seed": seed}
    out = pathlib.Path(out).resolve()
    plan = plan_corpus(duration_min, seed)
    try:
        if _find_defect(out, options, plan, force) is None:  # needs no permission to write
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(out):
            defect = _find_defect(out, options, plan, force)
            if defect is not None:
                if defect:
                    logger.warning("%s: making the mini corpus again", defect)
                if num_workers is None:
                    num_workers = 1 if duration_min <= _SINGLE_PROCESS_MIN else num_processes(None)
                replace_corpus(out, options, plan, num_workers, show_progress)
    except OSError as err:
        why = f"disk full, make room ({err})" if is_disk_full(err) else err
        raise UserError(f"cannot make a mini corpus in '{out}': {why}") from err
    return out


def demo_corpus(show_progress: bool = True) -> Path:
    """The default corpus, made at its first use and cached; checked at every use.

    The cache is `$SPEECHBRAIN_POM_CACHE`, else `$XDG_CACHE_HOME/speechbrain_pom`, else
    `~/.cache/speechbrain_pom`.

    >>> demo_corpus(show_progress=False).name
    'mini_corpus-v1-15min-seed0'
    """
    cache = os.environ.get("SPEECHBRAIN_POM_CACHE")
    if not cache:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        cache = pathlib.Path(base) / "speechbrain_pom"
    name = f"mini_corpus-v{CORPUS_VERSION}-{DEFAULT_DURATION_MIN:g}min-seed0"
    return make_mini_corpus(pathlib.Path(cache) / name, show_progress=show_progress)


def _check_options(duration_min, seed, num_workers):
    if not (math.isfinite(duration_min) and duration_min >= MIN_DURATION_MIN):
        raise UserError(
            f"a mini corpus of {duration_min} minutes is not possible: ask for "
            f"{MIN_DURATION_MIN} or more"
        )
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed {seed!r} is not possible: give an integer >= 0")
    if num_workers is not None and (not isinstance(num_workers, int) or num_workers < 1):
        raise UserError(f"{num_workers!r} worker processes are not possible: give 1 or more")


def _find_defect(out, options, plan, force):
    """None: intact. Text: why it must be made (again), empty if nothing is there.

    Raises if `out` must not be touched.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"'{out}' is a file: give another folder for the mini corpus")
    entries = list_entries(out)
    if not entries:
        return ""
    foreign = min(entries - expected_files(plan), default=None)
    try:
        manifest = read_manifest(out)
    except ValueError as err:
        if foreign is not None:
            raise UserError(f"{err}, and it holds '{foreign}': give an empty folder") from err
        return str(err)
    made_with = {"version": manifest["version"], **manifest["options"]}
    asked_for = {"version": CORPUS_VERSION, **options}
    if made_with != asked_for:
        defect = f"'{out}' has {_listing(made_with)}, but {_listing(asked_for)} is asked for"
        if not force:
            raise UserError(f"{defect}: give another folder, or --force to replace the corpus")
        return defect
    try:
        verify_mini_corpus(out)
    except ValueError as err:
        if foreign is not None and not force:
            raise UserError(
                f"mini corpus '{out}': '{foreign}' is not part of it: move it away, or give "
                "--force to make the corpus again without it"
            ) from err
        return str(err)
    return None


def _listing(options):
    return ", ".join(f"{name} {value}" for name, value in options.items())


def replace_corpus(
    out: Path, options: dict, plan: list[Utterance], num_workers: int, show_progress: bool
) -> None:
    """Write and check a corpus, as `write_corpus`, and put it in the place of an older one."""
    partial = out.with_name(f".{out.name}.partial")
    if partial.exists():
        logger.warning("the generation of '%s' was interrupted: starting again", out)
        shutil.rmtree(partial, ignore_errors=True)
    try:
        write_corpus(partial, options, plan, num_workers, show_progress)
        verify_mini_corpus(partial)
        publish_folder(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
