"""Run folders and YAML files of version 0.1. To be removed in version 0.3."""

import json
from pathlib import Path

# Where each entry of run.json stood.
OLD_FILES = {
    "configuration": "configuration.json",
    "fingerprints": "fingerprints.json",
    "finished": "finished.json",
}

# The part of the keys in a run, for a YAML that does not say it: those that change nothing that is
# computed, and those that may change when a run is continued.
OLD_ROLES = {
    "_not_part_of_the_run": [
        "data_folder",
        "num_workers",
        "check_data",
        "tensorboard",
        "num_checkpoints_to_keep",
        "layer_statistics_interval",
        "max_cache_gib",
    ],
    "_may_change": [
        "number_of_epochs",
        "pretrained",
        "test_splits",
        "test_csv",
        "test_only",
        "beam_size",
        "beam_prune_logp",
        "token_prune_min_logp",
        "kenlm_model_path",
        "kenlm_words_path",
        "alpha",
        "beta",
        "num_bootstrap",
        "num_trials",
        "valid_batch_size",
    ],
}


def read_old_record(folder: str | Path) -> dict:
    """The record of a run that version 0.1 began; empty if there is none."""
    paths = {entry: Path(folder) / name for entry, name in OLD_FILES.items()}
    return {
        entry: json.loads(path.read_text(encoding="utf-8"))
        for entry, path in paths.items()
        if path.is_file()
    }


def comparable(begun: dict, now: dict) -> list:
    """The keys by which a run of version 0.1 and a command of today can be compared.

    Plain values that both have: the YAML files have lost and gained keys since, and the classes
    that they name have moved.
    """
    return [key for key in begun if key in now and "!" not in begun[key] + now[key]]
