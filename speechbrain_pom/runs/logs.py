"""The logs of a run: `train_log.txt`, `history.jsonl`, `curves.png`, and SpeechBrain's loggers."""

import importlib.util
import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from speechbrain.utils.distributed import MainProcessContext, if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_pom.runs.curves import draw_curves
from speechbrain_pom.runs.metrics import TaskMetrics, read_metrics, store_metrics
from speechbrain_pom.utils.disks import why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.quiet import without_warnings_of

with without_warnings_of("speechbrain.utils.train_logger"):  # of torchvision, for its figures
    from speechbrain.utils.train_logger import FileTrainLogger, TensorboardLogger, TrainLogger

# SpeechBrain writes it into log.txt when a run starts or resumes.
_RUN_START = "Applied quirks ("

logger = get_logger(__name__)


class EpochHistory:
    """One JSON object per epoch, in a file that survives being killed at any moment.

    A line that was cut short by a crash is not read, and removed by the next `append` or
    `resume`. Floats that are not finite are written as `NaN` and `Infinity`, as Python reads
    them.

    Arguments
    ---------
    path : str or Path
        The `.jsonl` file; made by the first `append`.

    Example
    -------
    >>> history = EpochHistory(getfixture("tmp_path") / "history.jsonl")
    >>> history.append({"epoch": 1, "train": {"loss": 8.5}})
    >>> history.append({"epoch": 2, "train": {"loss": 7.0}})
    >>> history.resume(last_epoch=1)
    >>> history.records()
    [{'epoch': 1, 'train': {'loss': 8.5}}]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def records(self) -> list[dict]:
        """All complete records."""
        return [json.loads(line) for line in _complete_lines(self.path)]

    def append(self, record: dict) -> None:
        """Add the record of one epoch, which must be later than those that are there.

        It holds `epoch`, numbers, strings, and dicts of them; tensors of one element are numbers.
        """
        lines = _complete_lines(self.path)
        last_epoch = json.loads(lines[-1])["epoch"] if lines else 0
        if record["epoch"] <= last_epoch:
            raise UserError(
                f"{self.path} has epoch {last_epoch} already, and epoch {record['epoch']} was to "
                "be added: call resume(last_epoch) first"
            )
        _keep_lines(self.path, lines)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, default=float) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def resume(self, last_epoch: int) -> None:
        """Drop the epochs after `last_epoch`, which will be run again; 0 for a fresh start."""
        lines = _complete_lines(self.path)
        _keep_lines(self.path, [ln for ln in lines if json.loads(ln)["epoch"] <= last_epoch])


class ExperimentLogger(TrainLogger):
    """All logs of a run behind SpeechBrain's `log_stats`; only the main process writes.

    In a YAML:

        train_logger: !new:speechbrain_pom.runs.logs.ExperimentLogger
            output_folder: !ref <output_folder>
            tensorboard: !ref <tensorboard>
            others: [!ref <wandb>] # loggers of SpeechBrain beside it, such as a WandBLogger

    Nothing is written before the first call. A resumed run repeats epochs after its checkpoint;
    they are in no log twice. TensorBoard's files, whose steps SpeechBrain's logger counts in each
    process anew, are written again from `history.jsonl`; `others` are told the epoch, which is
    `WandBLogger`'s step.

    Arguments
    ---------
    output_folder : str or Path
        Gets `train_log.txt` (a line per epoch), `history.jsonl`, `curves.png` and, if asked
        for, `tensorboard/`.
    tensorboard : bool
        Also write event files, by SpeechBrain's `TensorboardLogger`.
    others : iterable of speechbrain.utils.train_logger.TrainLogger
        Get the same calls of `log_stats`, in the main process.

    Raises
    ------
    UserError
        When TensorBoard is asked for and not installed, or `others` are no loggers.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> train_logger = ExperimentLogger(folder)
    >>> train_logger.log_stats({"epoch": 1, "lr": 1e-3}, {"loss": 8.5}, {"loss": float("nan")})
    >>> (folder / "train_log.txt").read_text()
    'epoch: 1, lr: 1.00e-03 - train loss: 8.50 - valid loss: NaN\\n'
    """

    def __init__(
        self,
        output_folder: str | Path,
        tensorboard: bool = False,
        others: Iterable[TrainLogger] | None = None,
    ) -> None:
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "tensorboard: True needs the package tensorboard: pip install tensorboard, "
                "or set it to False"
            )
        self.output_folder = Path(output_folder)
        self.history = EpochHistory(self.output_folder / "history.jsonl")
        self.text_log = _TextLog(str(self.output_folder / "train_log.txt"))
        self.others = list(others or ())
        for other in self.others:
            if not hasattr(other, "log_stats"):
                raise UserError(
                    f"others of the logger: {other!r} has no log_stats: give a TrainLogger of "
                    "speechbrain.utils.train_logger"
                )
        self.use_tensorboard = tensorboard
        self._tensorboard = None

    def declare(self, task: TaskMetrics) -> None:
        """Store with the run what it measures, for the curves and for all later reports."""
        if if_main_process():
            store_metrics(self.output_folder, task)

    def resume(self, last_epoch: int) -> None:
        """Drop what the logs say of epochs after `last_epoch`, which will be run again.

        It is the last epoch that the checkpoint has finished; 0 for a fresh start.
        """
        if not if_main_process():
            return
        self.history.resume(last_epoch)
        self._tensorboard = None
        text_file = Path(self.text_log.save_file)
        lines = _complete_lines(text_file)
        # The file is in the order of time: test results after a dropped epoch go with it.
        for position, line in enumerate(lines):
            epoch = re.match(r"epoch: (\d+)", line)
            if last_epoch == 0 or (epoch and int(epoch[1]) > last_epoch):
                lines = lines[:position]
                break
        _keep_lines(text_file, lines)

    def log_stats(
        self,
        stats_meta: dict,
        train_stats: dict | None = None,
        valid_stats: dict | None = None,
        test_stats: dict | None = None,
        verbose: bool = True,
    ) -> None:
        """Log one epoch (or a test): see `speechbrain.utils.train_logger.TrainLogger`.

        What is declared of the statistics (`declare`) is drawn. If the files cannot be written, as
        on a full disk, a `RuntimeError` says what to do.
        """
        if not if_main_process():
            return
        parts = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        parts = {name: stats for name, stats in parts.items() if stats is not None}
        try:
            if test_stats is None:
                self.history.append({**stats_meta, **parts})
                self._draw()
            # Without this context SpeechBrain's logger would wait for the other processes.
            with MainProcessContext():
                self.text_log.log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)
            if self.use_tensorboard:
                self._log_events(stats_meta, parts)
        except OSError as error:
            raise RuntimeError(
                f"the logs in {self.output_folder} cannot be written: "
                f"{why_not_written(error, self.output_folder)}. The checkpoints are as they were: "
                "make room and run the same command to resume"
            ) from error
        with MainProcessContext():
            for other in self.others:
                other.log_stats(stats_meta, train_stats, valid_stats, test_stats)

    def _draw(self):
        try:
            records = self.history.records()
            task = read_metrics(self.output_folder, logged=records[-1].get("valid", {}))
            draw_curves(records, task, self.output_folder / "curves.png")
        except (OSError, ValueError) as error:
            # A picture is no reason to stop a training run.
            logger.warning("curves.png is not updated: %s", error)

    def _log_events(self, stats_meta, parts):
        """Event files: those of earlier processes are replaced by what the history says of them."""
        records = self.history.records()
        if self._tensorboard is None:
            folder = self.output_folder / "tensorboard"
            shutil.rmtree(folder, ignore_errors=True)
            self._tensorboard = TensorboardLogger(str(folder))
            for record in records if "test" in parts else records[:-1]:
                past = {name: record.pop(name) for name in ("train", "valid") if name in record}
                self._log_event(record, past)
        self._log_event(stats_meta, parts)
        self._tensorboard.writer.flush()

    def _log_event(self, stats_meta, parts):
        meta = {name: value for name, value in stats_meta.items() if _is_number(value)}
        with MainProcessContext():
            self._tensorboard.log_stats(meta, **{f"{part}_stats": parts[part] for part in parts})


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _TextLog(FileTrainLogger):
    """SpeechBrain's lines, with NaN and large numbers readable."""

    def _item_to_string(self, key, value, dataset=None):
        if isinstance(value, float) and math.isnan(value):
            value = "NaN"
        elif isinstance(value, float) and 100.0 <= abs(value) < 1e6:
            value = f"{value:.1f}"
        return super()._item_to_string(key, value, dataset)


def training_time(log: Path) -> timedelta | None:
    """Time from the first to the last line of `log.txt`, summed over all starts of a run."""
    total, start, last = timedelta(), None, None
    if not log.is_file():
        return None
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        stamp = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)
        if stamp is None:
            continue
        now = datetime.fromisoformat(stamp[0])
        if _RUN_START in line:
            total += last - start if start is not None else timedelta()
            start = now
        last = now
    return total + (last - start) if start is not None else None


def _complete_lines(path):
    """The lines of a file without their ends; a last line that was cut short is not one."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.split("\n")[:-1]


def _keep_lines(path, lines):
    """Rewrite the file with these lines, unless it is that already."""
    content = "".join(line + "\n" for line in lines)
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != content:
        write_atomically(path, content)
