"""The opening of a recipe: command line, processes, experiment, output folder."""

from speechbrain.utils.distributed import run_on_main

from speechbrain_pom.runs.checkpoints import SafeCheckpointer
from speechbrain_pom.runs.experiment import DATA_KEYS, load_experiment
from speechbrain_pom.runs.folder import claim_folder, lock_folder
from speechbrain_pom.runs.launch import init_distributed, prepare_output_folder
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.utils.errors import UserError


def start_experiment(script_path, demo_data=None):
    """Go from the command line to a loaded experiment with an output folder.

    Arguments
    ---------
    script_path : str
        The recipe's `__file__`.
    demo_data : callable, optional
        Makes the data of the demo and returns their folder.

    Returns
    -------
    experiment : speechbrain_pom.runs.experiment.Experiment
        With its `hparams`, and `run_opts` for the Brain.
    launch : speechbrain_pom.runs.launch.Launch
        Rank and number of processes.

    Raises
    ------
    SystemExit
        With code 0, if this very run is finished: it writes nothing more.
    UserError
        For anything in the call that cannot work; `exit_on_user_error` prints it.
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
