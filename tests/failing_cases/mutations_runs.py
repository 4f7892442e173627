"""How runs behave today: options, checkpoints, resuming, order, steps, signals and folders."""

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

import speechbrain as sb
import torch
from behaviours import mutation, replace
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfigRandomSampler
from speechbrain.utils.run_opts import RunOptions

from speechbrain_pom.runs import checkpoints
from speechbrain_pom.runs import folder as run_folder
from speechbrain_pom.runs.checkpoints import CHECKSUMS_FILE, SafeCheckpointer
from speechbrain_pom.runs.options import RunRequest
from speechbrain_pom.runs.values import RUN_OPTION_TYPES
from speechbrain_pom.training import sampler
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.chunks import ChunkSampler
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.training.stopping import StopRequest
from speechbrain_pom.utils.files import flush_to_disk

BRAIN = "unit/training/test_brain.py::"
CHECKPOINTS = "unit/runs/test_checkpoints.py::"
FOLDER = "unit/runs/test_folder.py::"
OPTIONS = "unit/runs/test_options.py::"
SAMPLER = "unit/training/test_sampler.py::"
STOPPING = "unit/training/test_stopping.py::"
STOPPED = STOPPING + "test_stopped_and_killed_and_resumed_is_the_straight_run"
RESUME = BRAIN + "test_resume_at_any_batch_equals_the_straight_run"


@mutation(
    1,
    "unit/runs/test_experiment.py::test_brain_gets_the_yamls_run_options_and_not_the_defaults",
)
def run_option_defaults_over_the_yaml():
    """`hparams.update(run_opts)` copies the defaults of all run options over the YAML."""

    def with_defaults(load):
        def load_experiment(*args, **kwargs):
            experiment = load(*args, **kwargs)
            run_opts = {**RunOptions().as_dict(), **experiment.run_opts}
            experiment.hparams.update(run_opts)
            return dataclasses.replace(experiment, run_opts=run_opts)

        return load_experiment

    replace("runs.experiment", "load_experiment", with_defaults)


@mutation(
    1,
    OPTIONS + "test_strings_are_kept_verbatim",
    OPTIONS + "test_each_mistake_has_its_message",
    OPTIONS + "test_run_options_are_typed_and_only_the_given_ones_appear",
)
def command_line_of_speechbrain():
    """SpeechBrain's parser splits values at `=`, ignores `--prec`, and leaves numbers as text."""

    def parse_command_line(argv=None):
        argv = list(sys.argv[1:] if argv is None else argv)
        path, run_opts, overrides = RunOptions.from_command_line_args(argv)
        given = {name: run_opts[name] for name in run_opts.overridden_args & {*RUN_OPTION_TYPES}}
        values = load_hyperpyyaml(overrides) if overrides else {}
        return RunRequest(Path(path), values, given, (sys.argv[0], *argv))

    replace("runs.options", "parse_command_line", lambda _: parse_command_line)


def resume_without_a_look():
    """SpeechBrain's choice of the checkpoint to resume from."""
    SafeCheckpointer.recover_if_possible = Checkpointer.recover_if_possible
    SafeCheckpointer._list_checkpoint_dirs = Checkpointer._list_checkpoint_dirs


@mutation(2, CHECKPOINTS + "test_death_at_any_moment_leaves_a_whole_checkpoint")
def marker_first():
    """A checkpoint is written in place, its marker first: death in between bricks the run."""

    def save_checkpoint(self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO):
        saved = Checkpointer.save_checkpoint(self, meta or {}, end_of_epoch, name, verbosity)
        # What the package adds to the files is added here too: only place and order are others.
        checksums = {
            path.name: {"num_bytes": path.stat().st_size, "sha256": checkpoints.sha256_of(path)}
            for path in sorted(saved.path.iterdir())
        }
        (saved.path / CHECKSUMS_FILE).write_text(json.dumps(checksums))
        for path in (*sorted(saved.path.iterdir()), saved.path):
            flush_to_disk(path)
        os.rename(saved.path, saved.path)  # it has its name already
        return saved

    SafeCheckpointer.save_checkpoint = save_checkpoint
    resume_without_a_look()


@mutation(
    2,
    CHECKPOINTS + "test_damage_is_passed_over_and_named",
    CHECKPOINTS + "test_when_all_are_damaged_nothing_starts_over",
)
def no_fallback():
    """The newest marker is taken, whatever the files beside it hold: the run cannot resume."""
    resume_without_a_look()


@mutation(2, CHECKPOINTS + "test_a_full_disk_is_named_and_keeps_what_is_there")
def full_disk_bricks_the_run():
    """A full disk leaves half a checkpoint that looks newest, even after space is freed."""
    SafeCheckpointer.save_checkpoint = Checkpointer.save_checkpoint
    resume_without_a_look()


@mutation(
    3,
    RESUME,
    BRAIN + "test_randomness_of_a_step_does_not_depend_on_what_was_drawn_before",
    slow=(
        STOPPED,
        "recipes/test_bestrq.py::test_killed_in_mid_epoch_and_resumed",
        "recipes/test_ctc.py::test_killed_in_mid_epoch_and_resumed",
    ),
)
def generators_seeded_at_the_start():
    """Generators are seeded at each start of a process: a resumed run repeats earlier numbers."""
    replace("utils.seeding", "seed_step", lambda _: lambda *_: None)
    on_fit_start = ExactBrain.on_fit_start

    def seed_and_start(self):
        on_fit_start(self)
        torch.manual_seed(self.hparams.seed)

    ExactBrain.on_fit_start = seed_and_start


@mutation(
    3,
    RESUME,
    SAMPLER + "test_start_gives_the_tail_of_that_epoch_only",
    slow=(STOPPED,),
)
def one_batch_twice_and_one_never():
    """Resuming in the middle of an epoch repeats a batch, and leaves another one out."""
    iterate = BucketBatchSampler.__iter__

    def shifted(self):
        done = self._start if self._epoch == self._start_epoch else 0
        batches = list(iterate(self))
        if not 0 < done < len(self):
            return iter(batches)
        self._start = done - 1
        repeated = next(iterate(self))
        self._start = done
        return iter([repeated, *batches[:-1]])

    BucketBatchSampler.__iter__ = shifted


@mutation(
    4,
    SAMPLER + "test_order_is_fresh_every_epoch_and_depends_on_the_seed",
    BRAIN + "test_each_utterance_once_per_epoch_in_a_fresh_order",
)
def same_order_in_every_epoch():
    """One process sees the same batches in the same order in every epoch."""
    philox = sampler.philox
    sampler.philox = lambda what, seed, epoch: philox(what, seed, 0)


@mutation(4, SAMPLER + "test_order_is_fresh_every_epoch_and_depends_on_the_seed")
def order_ignores_the_seed():
    """`--seed` does not change the order of the data."""
    philox = sampler.philox
    sampler.philox = lambda what, seed, epoch: philox(what, 0, epoch)


@mutation(4, BRAIN + "test_the_last_window_of_an_epoch_is_stepped_and_rescaled")
def remainder_thrown_away():
    """The gradient of the last, shorter accumulation window of an epoch is lost."""

    def accumulation_window(self):
        factor = self.grad_accumulation_factor
        return factor, self.step % factor == 0

    ExactBrain.accumulation_window = accumulation_window


@mutation(
    6,
    BRAIN + "test_a_step_that_is_not_finite_changes_nothing_and_names_the_utterances",
    BRAIN + "test_more_than_the_patience_in_a_row_ends_the_run",
)
def nan_reaches_the_weights():
    """One batch with NaN makes all weights NaN, and its checkpoint is kept as the newest."""
    ExactBrain.optimizers_step = lambda self: sb.Brain.optimizers_step(self)


@mutation(
    11,
    slow=(STOPPED, STOPPING + "test_ctrl_c_saves_and_a_second_one_does_not_wait"),
)
def signals_end_at_once():
    """SIGTERM and Ctrl-C end a run at once, unsaved."""
    StopRequest.__enter__ = lambda self: self


@mutation(11, RESUME, BRAIN + "test_resuming_says_from_where")
def saved_at_epoch_ends_only():
    """Pretraining saves at the ends of epochs only."""
    ExactBrain._should_save_intra_epoch_ckpt = lambda self, *_: False


@mutation(
    12,
    FOLDER + "test_a_finished_run_is_claimed_as_finished",
    "unit/runs/test_start.py::test_a_finished_run_ends_with_code_0_and_writes_nothing",
    slow=(FOLDER + "test_the_command_of_a_finished_run_writes_nothing",),
)
def finished_run_goes_on():
    """The command of a finished run opens it again, and writes into its folder."""

    def never_finished(claim):
        def claim_folder(experiment, world_size):
            claim(experiment, world_size)
            return False

        return claim_folder

    replace("runs.folder", "claim_folder", never_finished)


@mutation(12, BRAIN + "test_training_ends_exactly_at_the_step_limit")
def empty_epochs_after_the_limit():
    """Each start after `optimizer_step_limit` adds an epoch without a step, and a checkpoint."""
    ExactBrain._fit_valid = sb.Brain._fit_valid


@mutation(12, BRAIN + "test_checkpoints_say_what_they_are_and_the_best_one_is_kept")
def good_checkpoints_rotated_out():
    """Newer checkpoints take the place of the best one."""

    def save_and_keep_only(self, **options):
        return Checkpointer.save_and_keep_only(self, **{**options, "min_keys": None})

    SafeCheckpointer.save_and_keep_only = save_and_keep_only


@mutation(
    12,
    FOLDER + "test_another_configuration_is_refused_with_what_changed",
    FOLDER + "test_edits_of_the_yaml_are_noticed",
    "unit/runs/test_start.py::test_what_is_refused_leaves_the_documents_of_the_run_alone",
)
def another_configuration_goes_on():
    """A changed configuration continues in the old folder without a word."""
    run_folder._check_configuration = lambda *_: None


@mutation(12, FOLDER + "test_a_second_process_is_refused_while_the_first_lives")
def no_lock():
    """Two runs write into one folder."""
    run_folder._hold_lock = lambda folder: None


@mutation(
    13,
    BRAIN + "test_the_schedule_sets_the_rate_of_the_step_itself",
    slow=("recipes/test_bestrq.py::test_step_limit_and_one_mask_for_the_batch",),
)
def first_step_at_peak_rate():
    """The schedule follows the step: the first one runs at the peak rate."""

    def step_then_schedule(self):
        sb.Brain.optimizers_step(self)
        self.on_optimizer_step_start()

    ExactBrain.optimizers_step = step_then_schedule


@mutation(
    3,
    "unit/training/test_chunks.py::test_a_draw_depends_on_seed_epoch_step_and_process_alone",
    "unit/objectives/test_pretraining.py::test_the_objective_is_told_the_chunks_of_the_step",
)
def chunks_from_the_shared_generator():
    """SpeechBrain draws dynamic chunks from PyTorch's generator: what was drawn before counts."""

    def draw(self, seed, epoch, step, rank=0):
        theirs = (self.chunkwise_prob, *self.sizes, self.limited_prob, *self.lefts)
        found = DynChunkTrainConfigRandomSampler(*theirs)(sb.Stage.TRAIN)
        return found and (found.chunk_size, found.left_context_size)

    ChunkSampler.draw = draw
