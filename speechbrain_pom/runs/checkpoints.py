"""Checkpoints that are complete or not there at all.

SpeechBrain writes a checkpoint's marker first and its files after, in place: a run that dies in
between leaves a folder that looks newest and cannot be loaded. Here SpeechBrain writes into a
hidden folder; its files are hashed and flushed to the disk; then the folder appears under its name
in one step. Everything else (recoverables, hooks, which checkpoints are kept) is SpeechBrain's.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from speechbrain.utils.checkpoints import METAFNAME, Checkpoint, Checkpointer, ckpt_recency
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_pom.runs.sharded_state import keeps_weights, load_state, save_state
from speechbrain_pom.utils.disks import why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import publish_folder, rename_durably, sha256_of

logger = get_logger(__name__)

CHECKSUMS_FILE = "checksums.json"
HPARAMS_FILE = "hyperparams.yaml"  # SpeechBrain's name for it, in a run's folder
SAVING_FOLDER = ".saving"
DELETING_FOLDER = ".deleting"


class SafeCheckpointer(Checkpointer):
    """SpeechBrain's `Checkpointer`, safe against death and full disks at any moment.

    - A save or a deletion that does not finish leaves no trace among the checkpoints.
    - A checkpoint whose metric is not finite is never the best one.
    - Resuming takes the newest checkpoint whose files are all as they were written, and names
      those that it passes over; when none is left it refuses instead of starting over.

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.utils.checkpoints.Checkpointer`.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> model = torch.nn.Linear(2, 2)
    >>> checkpointer = SafeCheckpointer(folder, {"model": model})
    >>> older = checkpointer.save_checkpoint(name="older")
    >>> newer = checkpointer.save_checkpoint(name="newer")
    >>> _ = (newer.path / "model.ckpt").write_bytes(b"half")
    >>> checkpointer.recover_if_possible().path.name
    'CKPT+older'
    """

    def __init__(self, checkpoints_dir: str | Path, *args, **kwargs) -> None:
        try:
            super().__init__(checkpoints_dir, *args, **kwargs)
        except OSError as error:
            raise UserError(
                f"cannot write to the output folder '{Path(checkpoints_dir).parent}' "
                f"({error.strerror}): give another one with --output_folder"
            ) from error
        self._found_whole = set()

    def save_checkpoint(
        self,
        meta: dict | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        verbosity: int = logging.INFO,
    ) -> Checkpoint:
        """Save all recoverables; see SpeechBrain's method of this name.

        If it cannot be written (disk full), a `RuntimeError` says so, and the earlier checkpoints
        are as they were.
        """
        visible = self.checkpoints_dir
        saving = visible / SAVING_FOLDER
        if name is None:
            name = self._new_checkpoint_dirpath().name.partition("+")[2]
        try:
            if if_main_process():
                shutil.rmtree(saving, ignore_errors=True)  # of a save that died
                saving.mkdir(exist_ok=True)
            ddp_barrier()
            self.checkpoints_dir = saving
            self._use_hooks_for_shards()
            try:
                saved = super().save_checkpoint(meta or {}, end_of_epoch, name, logging.DEBUG)
            finally:
                self.checkpoints_dir = visible
            if if_main_process():
                saved = _publish(saved, visible)
                logger.log(verbosity, "Saved checkpoint %s", saved.path)
            ddp_barrier()
        except (OSError, RuntimeError) as error:
            reason = why_not_written(error, visible)
            if if_main_process():  # the others must not take files from under it
                shutil.rmtree(saving, ignore_errors=True)
            raise RuntimeError(
                f"checkpoint not saved in {visible}: {reason}. The earlier ones are as they were: "
                "make room and run the same command to resume"
            ) from error
        return saved

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint into all recoverables; see SpeechBrain's method of this name."""
        self._use_hooks_for_shards()
        super().load_checkpoint(checkpoint)

    def _use_hooks_for_shards(self):
        for name, recoverable in self.recoverables.items():
            if keeps_weights(recoverable):
                self.custom_save_hooks.setdefault(name, save_state)
                self.custom_load_hooks.setdefault(name, load_state)

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        min_keys: Sequence[str] | None = None,
        max_keys: Sequence[str] | None = None,
        importance_keys: Sequence[Callable] = (ckpt_recency,),
        ckpt_predicate: Callable | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Delete all but the most important checkpoints; see SpeechBrain's method of this name.

        Each is hidden in one step before its files are removed (SpeechBrain has no seam for this).
        """
        if num_to_keep < 0:
            raise UserError(f"num_to_keep = {num_to_keep} must not be negative")
        orders = [
            *({"min_key": key} for key in min_keys or ()),
            *({"max_key": key} for key in max_keys or ()),
            *({"importance_key": key} for key in importance_keys),
        ]
        ranked = [self.find_checkpoints(ckpt_predicate=ckpt_predicate, **how) for how in orders]
        kept = {checkpoint.path for ranking in ranked for checkpoint in ranking[:num_to_keep]}
        found = {checkpoint.path for ranking in ranked for checkpoint in ranking}
        ddp_barrier()  # all processes have looked before any checkpoint goes
        if if_main_process():
            hidden = self.checkpoints_dir / DELETING_FOLDER
            shutil.rmtree(hidden, ignore_errors=True)  # of a run that died
            hidden.mkdir(exist_ok=True)
            for folder in sorted(found - kept):
                rename_durably(folder, hidden / folder.name)
                logger.log(verbosity, "Deleted checkpoint %s", folder)
            shutil.rmtree(hidden, ignore_errors=True)
        ddp_barrier()

    def find_checkpoints(
        self,
        importance_key: Callable | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable | None = None,
        max_num_checkpoints: int | None = None,
    ) -> list[Checkpoint]:
        """Rank checkpoints; see SpeechBrain's method of this name.

        Those whose metric is not finite have no rank: NaN would sort anywhere.
        """
        metric = max_key or min_key

        def predicate(checkpoint):
            ranked = metric is None or math.isfinite(checkpoint.meta.get(metric, math.nan))
            return ranked and (ckpt_predicate is None or ckpt_predicate(checkpoint))

        return super().find_checkpoints(
            importance_key, max_key, min_key, predicate, max_num_checkpoints
        )

    def _list_checkpoint_dirs(self):
        # SpeechBrain reads the marker of each of these: only those that are there in full.
        found = super()._list_checkpoint_dirs()
        return [folder for folder in found if not find_damage(folder, read_all=False)]

    def check(self) -> None:
        """Refuse a run that cannot resume, as all its checkpoints are damaged, before it begins."""
        self._refuse_if_all(self._find_damaged())

    def _find_damaged(self):
        """{folder: damage}; what `check` has just found whole is not read in full again."""
        damaged = {}
        for folder in sorted(self.checkpoints_dir.glob("CKPT+*")):
            damage = find_damage(folder, read_all=folder not in self._found_whole)
            if damage:
                damaged[folder] = damage
            else:
                self._found_whole.add(folder)
        return damaged

    def _refuse_if_all(self, damaged):
        if damaged and len(damaged) == len(list(self.checkpoints_dir.glob("CKPT+*"))):
            listing = "; ".join(f"{folder.name}: {text}" for folder, text in damaged.items())
            raise UserError(
                f"all {len(damaged)} checkpoints in '{self.checkpoints_dir}' are damaged "
                f"({listing}): repair them, or start in another output folder"
            )

    def recover_if_possible(
        self,
        importance_key: Callable | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable | None = None,
    ) -> Checkpoint | None:
        """Load the best checkpoint, by default the newest, that is as it was written.

        If there are checkpoints, but all are damaged, they are refused.
        """
        damaged = self._find_damaged()
        self._found_whole.clear()  # they may be damaged before the next time
        for folder, damage in damaged.items():
            logger.warning("Checkpoint %s is passed over: %s", folder, damage)
        candidates = self.find_checkpoints(importance_key, max_key, min_key, ckpt_predicate)
        candidates = [ckpt for ckpt in candidates if ckpt.path not in damaged]
        if candidates:
            self.load_checkpoint(candidates[0])
            return candidates[0]
        self._refuse_if_all(damaged)
        return None


def find_damage(
    folder: Path, read_all: bool = True, only: Collection[str] | None = None
) -> str | None:
    """What is wrong with the files of a `CKPT+...` folder; None if nothing is.

    All contents are compared (SHA-256), or, without `read_all`, those of the marker, and that all
    files are there in full length; `only` names the files to look at.
    """
    for name in (METAFNAME, CHECKSUMS_FILE):
        if not (folder / name).is_file():
            return f"it has no {name}"
    try:
        recorded = json.loads((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        expected = {name: (file["num_bytes"], file["sha256"]) for name, file in recorded.items()}
    except (ValueError, LookupError, TypeError, AttributeError, OSError):
        return f"{CHECKSUMS_FILE} cannot be read"
    for name, (num_bytes, sha256) in expected.items():
        if only is not None and name not in only:
            continue
        try:
            damage = _find_file_damage(folder / name, num_bytes, sha256, read_all)
        except OSError as error:
            damage = f"{name} cannot be read ({error.strerror})"
        if damage:
            return damage
    return None


def _find_file_damage(path, num_bytes, sha256, read_all):
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != num_bytes:
        return f"{path.name} has {path.stat().st_size} bytes of {num_bytes}"
    if (read_all or path.name == METAFNAME) and sha256_of(path) != sha256:
        return f"the contents of {path.name} have changed"
    return None


def _publish(saved, visible):
    """Flush a saved checkpoint to the disk and give it its name, in this order."""
    hparams_file = visible.parent / HPARAMS_FILE
    if hparams_file.is_file():  # so that a checkpoint says by itself what model it is of
        shutil.copyfile(hparams_file, saved.path / HPARAMS_FILE)
    files = sorted(path for path in saved.path.rglob("*") if path.is_file())
    checksums = {
        path.relative_to(saved.path).as_posix(): {
            "num_bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in files
    }
    listing = saved.path / CHECKSUMS_FILE
    listing.write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")
    final = visible / saved.path.name
    # A name that was given before: there is a whole checkpoint at every moment.
    publish_folder(saved.path, final, former=final.with_name(f"{final.name}+replaced"))
    renamed = {name: final / path.name for name, path in saved.paramfiles.items()}
    return saved._replace(path=final, paramfiles=renamed)
