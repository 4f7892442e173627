"""Names inside SpeechBrain that the recipes and the command line rely on, besides public ones."""

import inspect

import pytest
import speechbrain as sb
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

PRIVATE = {
    RunOptions: ("_convert_to_yaml", "_create_parser"),
    Checkpointer: ("_new_checkpoint_dirpath", "_list_checkpoint_dirs"),
    sb.Brain: (
        "_fit_train",
        "_fit_valid",
        "_should_save_intra_epoch_ckpt",
        "_optimizer_step_limit_exceeded",
    ),
}


@pytest.mark.parametrize("owner", PRIVATE)
def test_private_names_are_there(owner):
    for name in PRIVATE[owner]:
        assert hasattr(owner, name), f"SpeechBrain moved {owner.__name__}.{name}: adapt its users"


def test_fit_calls_what_exactbrain_overrides():
    source = inspect.getsource(sb.Brain.fit)
    for call in ("self._fit_train(", "self._fit_valid(", "self.on_fit_start(", "make_dataloader("):
        assert call in source, f"speechbrain.Brain.fit no longer has {call}...): see ExactBrain"


def test_constants():
    assert METAFNAME == "CKPT.yaml"
    assert isinstance(INTRA_EPOCH_CKPT_FLAG, str)
    assert "precision" in HELP_TEXTS
