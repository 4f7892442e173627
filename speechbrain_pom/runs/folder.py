"""One folder, one run: locked while it runs, refused to another configuration, and done once."""

from functools import lru_cache
from pathlib import Path

from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.runs.configuration import configuration, fixed_configuration, roles_of_keys
from speechbrain_pom.runs.experiment import Experiment
from speechbrain_pom.runs.legacy import comparable
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.record import RUN_FILE, finished_configuration, read_run, record_run
from speechbrain_pom.runs.values import ADDED
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.locks import LockTakenError, NoFileLocksError, acquire, is_held

logger = get_logger(__name__)

LOCK_FILE = ".lock"


def claim_folder(experiment: Experiment, world_size: int) -> bool:
    """Take the output folder for this run, unless it belongs to another one; on every process.

    Returns whether this very run is finished, so that there is nothing to do. Nothing but the lock
    is written. A `UserError` says that another process runs in the folder, or that it holds
    checkpoints of another configuration (unless `resume_anyway`).
    """
    return run_on_main(_claim, args=[experiment, world_size])


def mark_finished(experiment: Experiment, world_size: int) -> None:
    """Record that this run has done all that its configuration asks for."""
    folder = Path(experiment.hparams["output_folder"])
    finished = configuration(experiment, world_size)
    run_on_main(record_run, args=[folder], kwargs={"finished": finished})


def _claim(experiment, world_size):
    folder = Path(experiment.hparams["output_folder"])
    if not folder.is_dir():
        return False
    finished = finished_configuration(folder)
    roles = roles_of_keys(experiment.yaml_path)
    if finished is not None and not _differing(
        folder, finished, configuration(experiment, world_size), roles.left_out
    ):
        return True
    _hold_lock(folder)
    _check_configuration(experiment, world_size, folder)
    return False


def _check_configuration(experiment, world_size, folder):
    begun = read_run(folder).get("configuration")
    if begun is None or not any(folder.glob("save/CKPT+*")):
        return
    now = fixed_configuration(experiment, world_size)
    roles = roles_of_keys(experiment.yaml_path)
    differing = _differing(folder, begun, now, roles.left_out | roles.may_change)
    if differing and not experiment.hparams.get("resume_anyway", False):
        added = read_tree(experiment.yaml_path).get(
            ADDED, {}
        )  # what stands for a key that is absent
        begun, now = ({**_texts(added), **values} for values in (begun, now))
        changes = ", ".join(
            f"{key} {_change(begun.get(key), now.get(key))}" for key in differing[:5]
        )
        raise UserError(
            f"'{folder}' holds a run that was begun with {changes}"
            f"{' and more' if len(differing) > 5 else ''}: choose another --output_folder, or "
            "continue it with the new values by --resume_anyway True"
        )


def _texts(values):
    return {key: "null" if value is None else str(value) for key, value in values.items()}


def _differing(folder, then, now, free):
    """The keys by which two configurations differ, that of the folder's record and another.

    The record may have keys that its YAML has declared to be `free` since then.
    """
    is_old = not (folder / RUN_FILE).is_file()
    keys = comparable(then, now) if is_old else {**then, **now}
    return [key for key in keys if key not in free and then.get(key) != now.get(key)]


def _change(begun, now):
    """Two values, as far as they fit; long ones from where they differ."""
    texts = ["nothing" if text is None else text for text in (begun, now)]
    if min(map(len, texts)) > 60:
        pairs = enumerate(zip(*texts, strict=False))
        start = max(0, next((place for place, (a, b) in pairs if a != b), 0) - 20)
        texts = [f"...{text[start:]}" if start else text for text in texts]
    begun, now = (text if len(text) <= 60 else text[:57] + "..." for text in texts)
    return f"{begun} (now {now})"


def lock_folder(experiment: Experiment, world_size: int) -> None:
    """Keep other processes out of the output folder until this one ends, and record its run.

    Called on every process, once the folder exists.
    """
    run_on_main(_lock, args=[experiment, world_size])


def _lock(experiment, world_size):
    folder = Path(experiment.hparams["output_folder"])
    _hold_lock(folder)
    record_run(folder, configuration=fixed_configuration(experiment, world_size))


def _hold_lock(folder):
    path = folder / LOCK_FILE
    if is_held(path):
        return
    try:
        acquire(path)
    except LockTakenError as error:
        raise UserError(
            f"another process is running in '{folder}': wait for it, or choose another "
            "--output_folder"
        ) from error
    except NoFileLocksError as error:
        _warn_once(f"'{folder}' cannot be locked ({error}): make sure that only one run uses it")


@lru_cache
def _warn_once(sentence):
    logger.warning(sentence)
