"""The opening of a recipe: command line, processes, experiment, output folder."""

from collections.abc import Callable
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from speechbrain_pom.runs.checkpoints import SafeCheckpointer
from speechbrain_pom.runs.documents import prepare_output_folder
from speechbrain_pom.runs.experiment import DATA_KEYS, Experiment, load_experiment
from speechbrain_pom.runs.folder import claim_folder, lock_folder
from speechbrain_pom.runs.launch import Launch, init_distributed
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.utils.errors import UserError


def start_experiment(
    script_path: str, demo_data: Callable[[], str | Path] | None = None
) -> tuple[Experiment, Launch]:
    """Go from the command line to a loaded experiment with an output folder.

    `script_path` is the recipe's `__file__`; `demo_data` makes the data of the demo and returns
    their folder. If this very run is finished, the program ends with code 0 and writes nothing.
    """
    request = parse_command_line()
    launch = init_distributed(request)
    experiment = load_experiment(request, demo_data=demo_data, launch=launch)
    if all(experiment.hparams.get(key) is None for key in DATA_KEYS):
        raise UserError("data_folder is null and the YAML has no demo: give --data_folder")
    if claim_folder(experiment, launch.world_size):
        if launch.rank == 0:
            print(
                f"{experiment.hparams['output_folder']}: this run is finished, nothing to do "
                "(raise number_of_epochs or optimizer_step_limit to train on)",
                flush=True,
            )
        raise SystemExit(0)
    run_on_main(_check_checkpoints, args=[experiment.hparams.get("checkpointer")])
    prepare_output_folder(experiment, script_path)
    lock_folder(experiment, launch.world_size)
    return experiment, launch


def _check_checkpoints(checkpointer):
    if isinstance(checkpointer, SafeCheckpointer):
        checkpointer.check()
