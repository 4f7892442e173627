"""`init`: the recipes and hparams files, copied where they can be run and edited."""

import argparse
import shutil
from pathlib import Path

from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  speechbrain-pom init work
  cd work
  python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml

DIR gets recipes/ and hparams/ as they are in the project, and no file that is there already is
replaced. The copies are yours to edit: they use what is installed by its public names."""
FOLDERS = ("recipes", "hparams")
SUFFIXES = (".py", ".yaml", ".md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `init`."""
    parser.epilog = EPILOG
    parser.add_argument("folder", metavar="DIR", help="folder to write into; made if it is missing")


def run(args: argparse.Namespace) -> int:
    """Copy the files, and print what to run first."""
    files = write_starter(args.folder)
    print(f"{len(files)} files in {args.folder}; the demo, without any data:")
    print(f"  cd {args.folder}")
    print("  python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml")
    print("  python recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml")
    return 0


def write_starter(folder: str | Path) -> list[Path]:
    """Copy all recipes and hparams files into a folder; return the files that were written.

    >>> folder = getfixture("tmp_path") / "work"
    >>> folder / "hparams" / "pom.yaml" in write_starter(folder)
    True
    """
    source = _source()
    names = [
        path.relative_to(source)
        for part in FOLDERS
        for path in sorted(Path(source, part).rglob("*"))
        if path.suffix in SUFFIXES
    ]
    there = [name for name in names if Path(folder, name).exists()]
    if there:
        raise UserError(
            f"'{folder}' has {there[0]} already{f' and {len(there) - 1} more' * (len(there) > 1)}: "
            "give another folder, or move them away"
        )
    written = []
    for name in names:
        written.append(Path(folder, name))
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, written[-1])
    return written


def _source():
    """Where the files are: in an installed package, or in the checkout that is imported."""
    package = Path(__file__).parents[1]
    for source in (package / "starter", package.parent):
        if all(Path(source, part).is_dir() for part in FOLDERS):
            return source
    raise UserError(f"the recipes are missing beside '{package}': install speechbrain-pom again")
