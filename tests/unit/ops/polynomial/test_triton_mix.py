"""The whole mixer on Triton's kernels against the reference: outputs and every gradient.

On a GPU natively; elsewhere by Triton's interpreter, which reads TRITON_INTERPRET at its import.
"""

import pytest
import torch
from torch.utils._pytree import tree_map

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.ops import ChunkMask, choose_backend, polynomial_mix

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the largest value: half precision rounds a few times, the gradients once more.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.004}


@pytest.fixture
def errors_of(make_inputs, random_padding):
    """Function: relative errors of the output, of that without gradients, and of all gradients."""

    def run(num_frames, variant, mask, dtype, **options):
        inputs = make_inputs(num_frames, variant, degree=2, dtype=dtype)
        options |= {"attn_mask": mask, "key_padding_mask": random_padding(3, num_frames).to(DEVICE)}
        arguments = tree_map(lambda tensor: tensor.to(DEVICE), inputs.arguments)
        results = {}
        for backend in ("reference", "triton"):
            how = {**inputs.options, **options, "backend": backend}
            output = polynomial_mix(*arguments, **how)
            with torch.no_grad():
                inference = polynomial_mix(*arguments, **how)
            direction = torch.linspace(-1, 2, output.numel()).view_as(output).to(output)
            gradients = torch.autograd.grad((output * direction).sum(), inputs.leaves)
            results[backend] = [output.cpu(), inference.cpu(), *gradients]
        pairs = list(zip(*results.values(), strict=True))
        assert all(found.dtype == expected.dtype for expected, found in pairs)
        scales = [expected.abs().max().clamp(min=1e-30) for expected, _ in pairs]
        differences = [(found - expected).abs().max() for expected, found in pairs]
        return [float((d / s).detach()) for d, s in zip(differences, scales, strict=True)]

    return run


def test_this_runs_on_triton():
    assert choose_backend("triton", DEVICE) == "triton"


# Each length with each mask, and each dtype with both: the interpreter is slow.
DTYPES = list(TOLERANCES)
MASKS = [None, ChunkMask(1), ChunkMask(5, 2), ChunkMask(200)]
CASES = [
    (num_frames, mask, DTYPES[(row + column) % 3])
    for row, num_frames in enumerate((63, 500, 1))
    for column, mask in enumerate(MASKS)
]
CASES.append((63, ChunkMask(5, None, 2.5, [[3], [], [1, 2]]), torch.float32))


@pytest.mark.parametrize(("num_frames", "mask", "dtype"), CASES)
def test_masks_and_dtypes(errors_of, num_frames, mask, dtype):
    assert max(errors_of(num_frames, "base", mask, dtype)) < TOLERANCES[dtype]


@pytest.mark.parametrize("variant", ["selective", "frequency2", "frequency3"])
@pytest.mark.parametrize("recompute", [False, True])
def test_variants(errors_of, variant, recompute):
    assert max(errors_of(63, variant, None, torch.float32, recompute=recompute)) < 1e-5


def test_the_mixer_keeps_two_expanded_tensors():
    mixer = PolynomialMixer(6, backend="triton").to(DEVICE)
    kept = []

    def note(tensor):
        if tensor.dim() == 3 and tensor.shape[1:] == (70, 24):
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output, _ = mixer(torch.randn(2, 70, 6, device=DEVICE))
    assert len(kept) == 2
    output.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in mixer.parameters())
