"""`python -m speechbrain_pom COMMAND ...`: the command line of the package."""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module

from speechbrain_pom._version import __version__
from speechbrain_pom.cli.parser import Parser
from speechbrain_pom.utils.errors import UserError, exit_on_user_error


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Arguments
    ---------
    module : str
        Has `add_arguments(parser)` and `run(args)`, which returns the exit code. It is imported
        only for its own subcommand.
    summary : str
        One line for `--help`.
    takes_overrides : bool
        Whether options that the module does not know are collected in `args.overrides`.
    guard : callable
        The context manager that `run(args)` is called in: it turns a `UserError` into exit code 2.
    """

    module: str
    summary: str
    takes_overrides: bool = False
    guard: object = exit_on_user_error


COMMANDS = {
    "init": Command(
        "speechbrain_pom.cli.init",
        "copy the recipes and hparams files into a folder of yours",
    ),
    # The recipe's own errors pass through `run`, so it guards only its own checks.
    "run": Command(
        "speechbrain_pom.cli.run",
        "run an unmodified SpeechBrain recipe with the attention types of this package",
        guard=nullcontext,
    ),
    "submit": Command(
        "speechbrain_pom.cli.submit",
        "start a training as a job of Slurm or of this machine, which goes on when its time ends",
    ),
    "info": Command(
        "speechbrain_pom.cli.info",
        "list the attention types, or the layers and parameters of an hparams file's models",
        takes_overrides=True,
    ),
    "mini-corpus": Command(
        "speechbrain_pom.cli.mini_corpus",
        "synthesise a small speech corpus in LibriSpeech's layout",
    ),
    "check": Command(
        "speechbrain_pom.cli.check",
        "decode all audio of a corpus or manifest, and list what is wrong with it",
    ),
    "pack": Command(
        "speechbrain_pom.cli.pack",
        "pack audio into shards with an index, for training on millions of utterances",
    ),
    "summary": Command(
        "speechbrain_pom.cli.summary",
        "say what runs have reached, and where their files are",
    ),
    "encode": Command(
        "speechbrain_pom.cli.encode",
        "write the frames of a pretrained encoder for audio files of any number and length",
    ),
    "transcribe": Command(
        "speechbrain_pom.cli.transcribe",
        "write what is said in audio files: text, JSON with word times, or subtitles",
    ),
    "export": Command(
        "speechbrain_pom.cli.export",
        "make a folder of a trained model that SpeechBrain and load_encoder load, with a card",
    ),
    "compare": Command(
        "speechbrain_pom.cli.compare",
        "compare error rates of runs, paired by utterance, and draw their learning curves",
    ),
}
# What ran from a checkout under this name until version 0.1.0.
_MOVED = {"experiments": "experiments", "replica": "experiments.replica"}


def build_parser(command_name: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line, with the arguments of one subcommand at most.

    Only the module of that subcommand is imported.

    >>> build_parser("info").parse_args(["info", "hparams.yaml"]).yaml
    'hparams.yaml'
    """
    called_as_module = sys.argv[0].endswith("__main__.py")
    parser = Parser(
        prog="python -m speechbrain_pom" if called_as_module else "speechbrain-pom",
        description="Linear-time token mixers as attention types of SpeechBrain's encoders.",
    )
    parser.add_argument("--version", action="version", version=f"speechbrain-pom {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command_name:
            import_module(command.module).add_arguments(subparser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    with exit_on_user_error():
        name = next((argument for argument in argv if not argument.startswith("-")), None)
        if name in _MOVED:
            raise UserError(f"'{name}' has moved: in a checkout, call python -m {_MOVED[name]}")
        parser = build_parser(name)
        args, unknown = parser.parse_known_args(argv)
        args.argv = argv
        command = COMMANDS[args.command]
        if command.takes_overrides:
            args.overrides = unknown
        elif unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        module = import_module(command.module)
    with command.guard():
        return module.run(args)


if __name__ == "__main__":
    sys.exit(main())
