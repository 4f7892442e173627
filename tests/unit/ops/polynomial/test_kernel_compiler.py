"""What Triton's compiler makes of the kernels: it needs no GPU, and the interpreter takes more."""

import os
import subprocess
import sys

import pytest
import torch

from speechbrain_pom.ops.polynomial.backends import triton_obstacle

# Compiles every kernel that the launchers would run, for the architecture of the first argument,
# and prints name, dtype and the PTX's wide loads, asynchronous copies and matrix instructions.
SCRIPT = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver
from speechbrain_pom.ops.polynomial import launchers as kernels
from speechbrain_pom.ops.polynomial.features import Polynomial

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", int(sys.argv[1]), 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_active_torch_device = lambda self: torch.device("cpu")

def compile_only(self, *arguments, grid, warmup, **constants):
    ptx = run(self, *arguments, grid=grid, warmup=True, **constants).asm["ptx"]
    words = ["ld.global.v4", "cp.async.c", "wgmma.mma_async", "mma.sync", "atom."]
    print(self.fn.__name__, arguments[0].dtype, *(word for word in words if word in ptx))

driver.set_active(Driver())
run, JITFunction.run = JITFunction.run, compile_only
torch.backends.cuda.matmul.fp32_precision = "tf32"
for dtype, groups, chunk_size, degree, activation, padding in [
    (torch.bfloat16, 1, None, 2, "gelu_product", torch.zeros(2, 200, dtype=torch.bool)),
    (torch.float32, 1, 16, 3, "gelu_product", None),
    (torch.float16, 2, 1, 2, "relu_power", torch.zeros(2, 200, dtype=torch.bool)),
]:
    depth = 488 // groups
    width = 2 * depth * (1 if activation == "relu_power" else degree)
    frames = torch.zeros(2, 200, 488, dtype=dtype)[..., -depth:]
    wide, weight = torch.zeros(2, 200, width, dtype=dtype), torch.zeros(width, depth, dtype=dtype)
    state = torch.zeros(2, 200 // chunk_size if chunk_size else 1, width)
    options = chunk_size, Polynomial(degree, activation)
    kernels.sum_features(wide, padding, *options)
    kernels.sum_features_backward(wide, padding, state, *options)
    kernels.gate_state(wide, state, chunk_size)
    kernels.gate_state_backward(wide, state, wide, chunk_size)
    kernels.project_and_sum_features(frames, weight, None, padding, *options)
    kernels.project_and_gate_state(frames, weight, weight[:, 0], state, chunk_size)
"""


@pytest.mark.skipif(triton_obstacle(torch.float32) is not None, reason="Triton is not installed")
@pytest.mark.parametrize(("architecture", "matrix"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_kernels_compile_to_wide_loads_and_matrix_instructions(
    programs, architecture, matrix, tmp_path
):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = programs.run(["-c", SCRIPT, architecture], env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 18
    for line in lines:
        assert "atom." not in line  # sums add in one order
        if line.startswith("projected"):
            assert matrix in line, line
            assert "cp.async.c" in line, line
        else:
            assert "ld.global.v4" in line, line


def test_importing_the_package_imports_no_triton():
    code = (
        "import sys, speechbrain_pom, speechbrain_pom.ops.polynomial.launchers; "
        "sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
