"""Recipes run in forked processes, which need not import everything again."""

import importlib
import os
import runpy
import signal
import sys
import traceback

import pytest
import torch

from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.runs import logs
from tests.helpers import ROOT

TINY = {
    "d_model": 16,
    "d_ffn": 32,
    "nhead": 2,
    "num_encoder_layers": 2,
    "cnn_channels": 4,
    "train_splits": "[train-clean-100]",
    "number_of_epochs": 2,
    "optimizer_step_limit": "null",
    "lr": 0.01,
    "n_warmup_steps": 8,
    "precision": "fp32",
    "eval_precision": "fp32",
    "grad_accumulation_factor": 2,
    "max_batch_duration_s": 10,
    "valid_batch_duration_s": 60,
    "num_buckets": 3,
    "min_duration_s": 0,
    "num_workers": 0,
    "mask_scope": "utterance",
    "cb_vocab": 16,
    "device": "cpu",
}

# What a run imports at some time or other: here once, and not in each process.
PRELOADED = (
    "torch._dynamo",  # by the first optimizer
    "speechbrain_pom.objectives.bestrq",
    "speechbrain_pom.objectives.pretraining",
    "speechbrain_pom.runs.start",
    "speechbrain_pom.training.dataset",
)


class Pretraining:
    """Commands of train_bestrq.py with tiny models, as a user would type them."""

    def __init__(self, data_folder, log_path):
        self.data_folder, self.log_path = data_folder, log_path
        for name in PRELOADED:
            importlib.import_module(name)

    def run(self, output_folder, prepare=None, **options):
        """Run to the end; `prepare` is called first, in the new process.

        Returns
        -------
        tuple of (int, str)
            Exit code (negative: the signal that killed it), and all that was printed.
        """
        pid = os.fork()
        if pid == 0:
            self._become(output_folder, prepare, options)
        status = os.waitpid(pid, 0)[1]
        return os.waitstatus_to_exitcode(status), self.log_path.read_text(encoding="utf-8")

    def _become(self, output_folder, prepare, options):
        code = 1
        try:
            log = open(self.log_path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            sys.stdout = sys.stderr = log
            signal.signal(signal.SIGINT, signal.default_int_handler)
            script = ROOT / "recipes" / "LibriSpeech" / "train_bestrq.py"
            values = {"data_folder": self.data_folder, **TINY, **options}
            sys.argv = [str(script), str(values.pop("yaml", ROOT / "hparams" / "pom.yaml"))]
            sys.argv += [f"--{key}={value}" for key, value in values.items()]
            sys.argv += [f"--output_folder={output_folder}", "--noprogressbar"]
            sys.path.insert(0, str(script.parent))
            torch.set_num_threads(1)
            logs.draw_curves = lambda *_: None  # which takes longer than the steps of an epoch
            if prepare is not None:
                prepare()
            runpy.run_path(str(script), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A minute of synthetic speech in LibriSpeech's layout."""
    folder = tmp_path_factory.mktemp("tiny_corpus") / "LibriSpeech"
    return make_mini_corpus(folder, duration_min=1.0, show_progress=False)


@pytest.fixture
def pretraining(tiny_corpus, tmp_path):
    return Pretraining(tiny_corpus, tmp_path / "printed.txt")
