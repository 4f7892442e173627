#!/usr/bin/env python3
"""Build the wheel, check it, and use it in an environment that has no checkout: `make wheel`.

The dependencies are those of the environment that runs this; the package itself is seen only as
the wheel that was installed.
"""

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
# Two steps of pretraining on half a minute of audio.
TINY = (
    "--d_model 16 --d_ffn 16 --nhead 2 --num_encoder_layers 1 --cnn_channels 4 --cb_vocab 16 "
    "--num_workers 0 --optimizer_step_limit 2 --precision fp32 --eval_precision fp32 "
    "--max_batch_duration_s 10 --min_duration_s 0.5 --train_splits [train-clean-100]"
)
USE = """\
import sys, torch, speechbrain_pom
assert "site-packages" in speechbrain_pom.__file__, speechbrain_pom.__file__
frames, num_frames = speechbrain_pom.load_encoder(sys.argv[1])(torch.randn(1, 16000))
assert frames.shape == (1, int(num_frames[0]), 16), frames.shape
"""


def main():
    """Build, check and use the wheel; any failure ends this with its output."""
    dist = ROOT / "dist"
    for old in dist.glob("speechbrain_pom-*"):
        old.unlink()
    call(sys.executable, "-m", "build", "--outdir", dist, ROOT)
    call(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    (wheel,) = dist.glob("*.whl")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = make_environment(folder / "environment", wheel)
        use(python, folder)
    print(f"built, checked and used: {wheel.name}")


def make_environment(folder, wheel):
    """The Python of a new environment with this wheel over the dependencies of this one."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A folder in a .pth file is searched; the .pth files in it, such as that of an editable
    # install, are not read.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    return python


def use(python, folder):
    """What a user does first: version, recipes, a short run, and its encoder."""
    program = python.with_name("speechbrain-pom")
    version = call(program, "--version")
    assert re.fullmatch(r"speechbrain-pom \d+\.\d+\.\d+\S*\n", version), version
    work = folder / "work"
    call(program, "init", work)
    call(program, "mini-corpus", folder / "corpus", "--minutes", "1")
    script = ("recipes/LibriSpeech/train_bestrq.py", "hparams/pom.yaml")
    data = ("--data_folder", folder / "corpus", "--output_folder", folder / "run")
    call(python, *script, *data, *TINY.split(), cwd=work)
    call(python, "-c", USE, folder / "run", cwd=work)
    call(program, "summary", folder / "run", cwd=work)


def call(*command, cwd=None):
    """The output of a command, which has to succeed."""
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"failed: {' '.join(words)}\n{result.stdout[-3000:]}{result.stderr[-3000:]}")
    return result.stdout


if __name__ == "__main__":
    main()
