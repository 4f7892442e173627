"""Puts the recipes and hparams files into the wheel, for `speechbrain-pom init`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SUFFIXES = (".py", ".yaml", ".md")


class BuildWithRecipes(build_py):
    """`build_py`, and copies of `recipes/` and `hparams/` inside of the package."""

    def run(self):
        """Copy what was built, then the recipes; an editable install finds them in its checkout."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "speechbrain_pom", "starter")
        for folder in ("recipes", "hparams"):
            for file in sorted(ROOT.glob(f"{folder}/**/*")):
                if file.suffix in SUFFIXES:
                    copy = target / file.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, copy)


setup(cmdclass={"build_py": BuildWithRecipes})
