"""The selective scan: the equation, its backends, padding, both directions, memory."""

import importlib
import sys
import types

import pytest
import torch

from speechbrain_pom.ops import choose_scan_backend, selective_scan

FUNCTION_FILE = importlib.import_module("speechbrain_pom.ops.selective_scan")
CHUNK = importlib.import_module("speechbrain_pom.ops.selective_scan.chunked").CHUNK_FRAMES
NAMES = ("x", "dt", "A", "B", "C", "D")
LENGTHS = (1, CHUNK - 1, CHUNK, CHUNK + 1, 63, 500)


def make_inputs(num_frames, batch=3, width=5, num_states=4, dtype=torch.float64):
    """Leaves for the scan; steps from 0.001 to 3, so that states are kept and forgotten."""

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    torch.manual_seed(num_frames)
    frames, states = (batch, num_frames, width), (batch, num_frames, num_states)
    inputs = (
        leaf(*frames),
        torch.exp(2 * leaf(*frames) - 2).clamp(1e-3, 3.0),
        -torch.rand(width, num_states, dtype=torch.float64) * num_states,
        leaf(*states),
        leaf(*states),
        leaf(width),
    )
    return [tensor.to(dtype).requires_grad_() for tensor in inputs]


def outputs_and_gradients(function, inputs, **options):
    output = function(*inputs, **options)
    direction = torch.linspace(-1, 2, output.numel()).view_as(output).to(output.dtype)
    gradients = torch.autograd.grad((output * direction).sum(), inputs)
    return dict(zip(("y", *NAMES), (output.detach(), *gradients), strict=True))


def assert_equal_results(found, expected, rtol):
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.isfinite(found[name]).all()
        error = (found[name] - tensor).abs().max()
        assert error <= rtol * tensor.abs().max(), f"{name}: error {error:.3g}"


def by_the_equation(x, dt, A, B, C, D, reverse=False):
    """y_t as the sum over all earlier frames, each with its own decay: no recurrence."""
    if reverse:
        flipped = (tensor.flip(1) for tensor in (x, dt, B, C))
        x, dt, B, C = flipped
    time = dt.cumsum(1)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp((time[:, t : t + 1] - time[:, : t + 1]).unsqueeze(-1) * A)
        drive = (dt * x)[:, : t + 1].unsqueeze(-1) * B[:, : t + 1].unsqueeze(2)
        outputs.append(((decay * drive).sum(1) * C[:, t].unsqueeze(1)).sum(-1) + D * x[:, t])
    output = torch.stack(outputs, 1)
    return output.flip(1) if reverse else output


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_the_recurrence_is_the_sum_over_the_past(backend, reverse):
    inputs = make_inputs(40)
    expected = outputs_and_gradients(by_the_equation, inputs, reverse=reverse)
    found = outputs_and_gradients(selective_scan, inputs, reverse=reverse, backend=backend)
    assert_equal_results(found, expected, 1e-11)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunks_equal_the_reference(random_padding, dtype, rtol, num_frames, reverse, padded):
    inputs = make_inputs(num_frames, dtype=dtype)
    padding = random_padding(3, num_frames) if padded else None
    results = {
        backend: outputs_and_gradients(
            selective_scan, inputs, reverse=reverse, key_padding_mask=padding, backend=backend
        )
        for backend in ("reference", "chunked")
    }
    assert_equal_results(results["chunked"], results["reference"], rtol)
    with torch.no_grad():  # nothing is kept
        inference = selective_scan(*inputs, reverse=reverse, key_padding_mask=padding)
    assert torch.equal(inference, results["chunked"]["y"])


def test_decays_that_quotients_of_products_do_not_survive():
    x, _, A, B, C, D = make_inputs(200, dtype=torch.float32)
    dt = torch.full_like(x, 75.0).masked_fill(torch.rand(x.shape) < 0.7, 1e-3).requires_grad_()
    decay = (dt.unsqueeze(-1) * A).exp().cumprod(1)  # down to exp(-300) per frame
    drive = (dt * x).unsqueeze(-1) * B.unsqueeze(2)
    naive = (decay * (drive / decay).cumsum(1) * C.unsqueeze(2)).sum(-1) + D * x
    assert not torch.isfinite(naive).all()
    inputs = [x, dt, A, B, C, D]
    expected = outputs_and_gradients(selective_scan, inputs, backend="reference")
    found = outputs_and_gradients(selective_scan, inputs, backend="chunked")
    assert_equal_results(found, expected, 1e-5)


def test_states_that_never_decay_add_up_over_ten_minutes():
    x, dt, A, B, C, D = make_inputs(15_000, batch=1, width=2, num_states=2, dtype=torch.float32)
    slow = torch.full_like(A, -1e-6)
    with torch.no_grad():
        found = selective_scan(x, dt, slow, B, C, D)
        expected = selective_scan(x, dt, slow, B, C, D, backend="reference")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_padding_anywhere_is_as_if_the_frames_were_not_there(backend, reverse):
    x, dt, A, B, C, D = make_inputs(50)
    padding = torch.rand(3, 50) < 0.4
    nan = (tensor.masked_fill(padding.unsqueeze(-1), torch.nan) for tensor in (x, dt, B, C))
    bad_x, bad_dt, bad_B, bad_C = nan
    options = {"reverse": reverse, "backend": backend}
    found = selective_scan(bad_x, bad_dt, A, bad_B, bad_C, D, key_padding_mask=padding, **options)
    assert (found[padding] == 0).all()
    for row, valid in enumerate(~padding):
        x1, dt1, B1, C1 = (tensor[row : row + 1, valid] for tensor in (x, dt, B, C))
        alone = selective_scan(x1, dt1, A, B1, C1, D, **options)
        torch.testing.assert_close(found[row : row + 1, valid], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scanned_in_fp32(dtype):
    inputs = make_inputs(500, dtype=dtype)
    expected = outputs_and_gradients(selective_scan, inputs, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):  # changes nothing inside
        found = outputs_and_gradients(selective_scan, inputs, backend="chunked")
    assert_equal_results(found, expected, 0.01 if dtype == torch.bfloat16 else 0.001)


def test_training_keeps_states_between_chunks_only():
    num_frames, width, num_states = 40 * CHUNK, 6, 16
    inputs = make_inputs(num_frames, 1, width, num_states, torch.float32)
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        selective_scan(*inputs)
    states = num_frames * width * num_states
    per_frame = num_frames * (3 * width + 2 * num_states)  # x, dt, the scan's output; B, C
    assert sum(kept.values()) <= states / CHUNK + per_frame + 3 * width * (num_states + 1)
    assert sum(kept.values()) < states


def test_a_second_derivative_is_refused_by_the_chunks_alone():
    inputs = make_inputs(5)
    (gradient, *_) = torch.autograd.grad(
        selective_scan(*inputs).square().sum(), inputs, create_graph=True
    )
    with pytest.raises(RuntimeError, match=r"cannot be differentiated again: .*'reference'"):
        gradient.sum().backward()
    output = selective_scan(*inputs, backend="reference")
    (gradient, *_) = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
    gradient.sum().backward()


def test_operators_keep_pytorchs_contract():
    x, dt, A, B, C, _ = make_inputs(CHUNK + 3)
    operators = torch.ops.speechbrain_pom
    for keep in (False, True):
        torch.library.opcheck(
            operators.chunked_scan,
            (x, dt, A, B, C, False, keep),
            test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
        )


def scan_of_the_package(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, **_
):
    """Stands in for `mamba_ssm`'s function: its signature, layout and checks; the equation."""
    assert u.shape == delta.shape
    assert u.dtype == delta.dtype == B.dtype == C.dtype == A.dtype == D.dtype == torch.float32
    assert all(tensor.is_contiguous() for tensor in (u, delta, B, C))
    assert z is None
    assert delta_bias is None
    assert not delta_softplus
    x, dt, B, C = (tensor.transpose(1, 2) for tensor in (u, delta, B, C))
    return by_the_equation(x, dt, A, B, C, D).transpose(1, 2)


@pytest.fixture
def package(monkeypatch):
    """`mamba_ssm` as if it were installed, with a kernel for CPUs."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = scan_of_the_package
    monkeypatch.setitem(sys.modules, "mamba_ssm", types.ModuleType("mamba_ssm"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", types.ModuleType("mamba_ssm.ops"))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setattr(FUNCTION_FILE, "KERNEL_DEVICES", ("cpu",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_packages_kernel_gets_what_it_takes(package, random_padding, reverse, dtype):
    inputs, padding = make_inputs(63, dtype=dtype), random_padding(3, 63)
    options = {"reverse": reverse, "key_padding_mask": padding}
    expected = outputs_and_gradients(selective_scan, inputs, **options, backend="reference")
    for backend in ("mamba_ssm", "auto"):
        found = outputs_and_gradients(selective_scan, inputs, **options, backend=backend)
        assert_equal_results(found, expected, 1e-5 if dtype == torch.float32 else 0.01)


def test_the_package_is_taken_where_it_can_be(package):
    assert choose_scan_backend("auto") == choose_scan_backend("mamba_ssm") == "mamba_ssm"
    assert choose_scan_backend("auto", "cpu", torch.float64) == "chunked"
    assert choose_scan_backend("chunked") == "chunked"
    with pytest.raises(ValueError, match="not available here: its kernels compute in float32"):
        choose_scan_backend("mamba_ssm", "cpu", torch.float64)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    assert choose_scan_backend("auto", "cuda") == "chunked"
    with pytest.raises(ValueError, match=r"\(pip install 'speechbrain-pom\[mamba\]'\)"):
        choose_scan_backend("mamba_ssm", "cuda")
    with pytest.raises(ValueError, match="run on NVIDIA GPUs, not on a device of type 'cpu'"):
        selective_scan(*make_inputs(3), backend="mamba_ssm")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("reverse", [False, True])
def test_the_package_itself(random_padding, reverse):
    pytest.importorskip("mamba_ssm.ops.selective_scan_interface")
    inputs = [
        tensor.detach().cuda().requires_grad_()
        for tensor in make_inputs(500, width=32, num_states=16, dtype=torch.float32)
    ]
    options = {"reverse": reverse, "key_padding_mask": random_padding(3, 500).cuda()}
    expected = outputs_and_gradients(selective_scan, inputs, **options, backend="reference")
    found = outputs_and_gradients(selective_scan, inputs, **options, backend="mamba_ssm")
    assert_equal_results(found, expected, 1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"backend": "fast"},
            "backend is 'fast': choose one of auto, reference, chunked, mamba_ssm",
        ),
        (
            {"x": torch.ones(3, 8)},
            "x is of shape (3, 8) and A of (5, 4): give (B, T, d) and (d, N)",
        ),
        (
            {"B": torch.ones(3, 8, 2)},
            "B is of shape (3, 8, 2): with x (3, 8, 5) and N = 4 give (3, 8, 4)",
        ),
        ({"D": torch.ones(4)}, "D is of shape (4,): with x (3, 8, 5) and N = 4 give (5,)"),
        (
            {"key_padding_mask": torch.zeros(3, 9, dtype=torch.bool)},
            "key_padding_mask is torch.bool of shape (3, 9): give a boolean mask of shape "
            "(3, 8), True = padding",
        ),
    ],
)
def test_bad_calls_are_quoted(changed, message):
    arguments = {**dict(zip(NAMES, make_inputs(8), strict=True)), **changed}
    with pytest.raises(ValueError, match=r": (choose|give|with)") as error:
        selective_scan(**arguments)
    assert str(error.value) == message
