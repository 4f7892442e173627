"""Mamba as a module: its equations, initialisation, padding, masks, sizes, the spec."""

import math

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask

from speechbrain_pom import Mamba
from speechbrain_pom.nnet.mamba import MambaBlock
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError
from tests.helpers.encoders import build_transformer

NUM_FRAMES = 40


def block_by_the_equations(state, frames, d_state, d_conv):
    """Mamba's algorithm 2, frame by frame and left to right, with nothing from the package."""
    x, z = (frames @ state["in_proj.weight"].T).chunk(2, -1)
    dt_rank = state["dt_proj.weight"].shape[1]
    A = -state["A_log"].exp()
    hidden, outputs, convolved = torch.zeros_like(A), [], []
    for t in range(len(frames)):
        total = state["conv1d.bias"].clone()
        for back in range(min(d_conv, t + 1)):
            total += state["conv1d.weight"][:, 0, d_conv - 1 - back] * x[t - back]
        convolved.append(total / (1 + torch.exp(-total)))
    for t, u in enumerate(convolved):
        low_rank, B, C = (u @ state["x_proj.weight"].T).split([dt_rank, d_state, d_state])
        dt = torch.log1p(torch.exp(low_rank @ state["dt_proj.weight"].T + state["dt_proj.bias"]))
        hidden = torch.exp(dt[:, None] * A) * hidden + (dt * u)[:, None] * B
        y = hidden @ C + state["D"] * u
        outputs.append(y * z[t] / (1 + torch.exp(-z[t])))
    return torch.stack(outputs) @ state["out_proj.weight"].T


def part(state, prefix):
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("d_model", "d_state", "d_conv", "expand"), [(5, 3, 4, 2), (18, 2, 1, 1)])
def test_the_equations_on_valid_frames(bidirectional, d_model, d_state, d_conv, expand):
    mixer = Mamba(d_model, bidirectional, d_state, d_conv, expand).double()
    x, lengths = torch.randn(3, NUM_FRAMES, d_model, dtype=torch.float64), [NUM_FRAMES, 1, 23]
    padding = torch.arange(NUM_FRAMES) >= torch.tensor(lengths).unsqueeze(1)
    output, weights = mixer(x, x, x, key_padding_mask=padding)
    assert weights is None
    state, sizes = mixer.state_dict(), (d_state, d_conv)
    for row, length in enumerate(lengths):
        frames = x[row, :length]
        expected = block_by_the_equations(part(state, "left_to_right."), frames, *sizes)
        if bidirectional:
            other = part(state, "right_to_left.")
            expected = expected + block_by_the_equations(other, frames.flip(0), *sizes).flip(0)
        torch.testing.assert_close(output[row, :length], expected, rtol=1e-10, atol=1e-12)
        assert (output[row, length:] == 0).all()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_of_any_pattern_and_content(bidirectional):
    mixer, x = Mamba(24, bidirectional), torch.randn(4, 60, 24)
    padding = torch.arange(60) >= torch.tensor([[60], [37], [1], [60]])
    padding[3] = torch.arange(60) < 22  # on the left
    poisoned = x.masked_fill(padding.unsqueeze(-1), torch.nan).requires_grad_()
    output, _ = mixer(poisoned, key_padding_mask=padding)
    for row in range(4):
        alone, _ = mixer(x[row : row + 1, ~padding[row]])
        error = (output[row, ~padding[row]] - alone[0]).abs().max() / alone.abs().max()
        assert error < 1e-5
    gradients = torch.autograd.grad(output.square().sum(), [poisoned, *mixer.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[0][padding] == 0).all()


def test_frames_in_holes_of_padding_change_nothing():
    mixer, x = Mamba(8), torch.randn(2, 30, 8)
    padding = torch.rand(2, 30) < 0.4
    noisy = torch.where(padding.unsqueeze(-1), 100 * torch.randn(2, 30, 8), x)
    results = [mixer(frames, key_padding_mask=padding)[0][~padding] for frames in (x, noisy)]
    assert torch.equal(*results)


def test_initialisation_is_the_papers():
    block = MambaBlock(256, d_state=5)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 6.0).expand(512, 5))
    assert (block.D == 1).all()
    steps = torch.nn.functional.softplus(block.dt_proj.bias)
    assert 0.99e-3 < steps.min() < 1.2e-3
    assert 0.085 < steps.max() < 0.1001
    assert abs(steps.log().mean() - math.log(1e-2)) < 0.2  # log-uniform: the geometric mean
    assert block.dt_proj.in_features == 16
    assert Mamba(250).left_to_right.dt_proj.in_features == 16  # ceil(250 / 16)


def test_state_dict_has_the_names_and_shapes_of_mamba_ssm():
    shapes = {name: tuple(t.shape) for name, t in MambaBlock(20, 3, 4, 2).state_dict().items()}
    assert shapes == {
        "A_log": (40, 3),
        "D": (40,),
        "in_proj.weight": (80, 20),
        "conv1d.weight": (40, 1, 4),
        "conv1d.bias": (40,),
        "x_proj.weight": (2 + 2 * 3, 40),
        "dt_proj.weight": (40, 2),
        "dt_proj.bias": (40,),
        "out_proj.weight": (20, 40),
    }


MASKS_WITHOUT_THE_FUTURE = {
    "causal": ChunkMask(1),
    "causal, boolean": ChunkMask(1).to_bool(NUM_FRAMES),
    "causal, SpeechBrain's": get_lookahead_mask(torch.zeros(1, NUM_FRAMES)),
    "chunks": ChunkMask(6),
    "ragged, boolean": torch.ones(NUM_FRAMES, NUM_FRAMES).triu(3).bool(),
}


@pytest.mark.parametrize("mask", MASKS_WITHOUT_THE_FUTURE)
def test_one_direction_honours_masks_of_the_future(mask):
    mixer, x = Mamba(8, bidirectional=False), torch.randn(2, NUM_FRAMES, 8)
    before, _ = mixer(x, attn_mask=MASKS_WITHOUT_THE_FUTURE[mask])
    for t in (0, 17, NUM_FRAMES - 1):
        changed = x.clone()
        changed[:, t:] = torch.nan
        after, _ = mixer(changed, attn_mask=MASKS_WITHOUT_THE_FUTURE[mask])
        assert torch.equal(after[:, :t], before[:, :t])
        assert after[:, t].isnan().all()


@pytest.mark.parametrize("mask", MASKS_WITHOUT_THE_FUTURE)
def test_both_directions_refuse_them(mask):
    with pytest.raises(ValueError, match=r"hides frames, .* choose Mamba\(bidirectional=False\)"):
        Mamba(8)(torch.randn(2, NUM_FRAMES, 8), attn_mask=MASKS_WITHOUT_THE_FUTURE[mask])


def test_masks_that_hide_nothing_are_accepted():
    mixer, x = Mamba(8), torch.randn(2, NUM_FRAMES, 8)
    expected, _ = mixer(x)
    for mask in (torch.zeros(NUM_FRAMES, NUM_FRAMES, dtype=torch.bool), ChunkMask(NUM_FRAMES)):
        assert torch.equal(mixer(x, attn_mask=mask)[0], expected)


@pytest.mark.parametrize(
    "mask",
    [
        ChunkMask(4, 2),
        ChunkMask(4, 2).to_bool(NUM_FRAMES),
        torch.eye(NUM_FRAMES, dtype=torch.bool).roll(1, 0),
    ],
)
def test_masks_of_the_past_are_refused(mask):
    text = "hides past frames, .* chunk mask with unlimited left context"
    with pytest.raises(ValueError, match=text):
        Mamba(8, bidirectional=False)(torch.randn(2, NUM_FRAMES, 8), attn_mask=mask)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_fp32(dtype, bidirectional):
    mixer, x = Mamba(16, bidirectional), torch.randn(2, 1000, 16)
    expected, _ = mixer(x)
    with torch.autocast("cpu", dtype):
        output, _ = mixer(x)
        gradients = torch.autograd.grad(output.float().square().mean(), list(mixer.parameters()))
    assert output.dtype == dtype
    assert (output - expected).abs().max() < 0.03 * expected.abs().max()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_compiled_mixer_is_one_graph_and_equal():
    torch._dynamo.reset()
    mixer, frames = Mamba(6), torch.randn(2, 50, 6, requires_grad=True)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    padding = torch.arange(50) >= torch.tensor([[50], [30]])
    results = []
    for function in (mixer, compiled):
        output, _ = function(frames, key_padding_mask=padding)
        gradients = torch.autograd.grad(output.square().sum(), [frames, *mixer.parameters()])
        results.append([output, *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_spec_builds_it_and_padding_does_not_leak():
    spec = "Mamba + Mamba(True, 4, d_conv=3, expand=1)"
    model = build_transformer(spec, 20).eval()
    mixer = model.encoder.layers[1].mha_layer
    assert mixer.right_to_left.A_log.shape == (16, 4)
    assert mixer.right_to_left.conv1d.weight.shape == (16, 1, 3)
    frames = torch.randn(2, 50, 20)
    with torch.no_grad():
        batched = model.encode(frames, torch.tensor([1.0, 0.5]))[1, :25]
        alone = model.encode(frames[1:, :25])[0]
    assert (batched - alone).abs().max() < 1e-5 * alone.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "Mamba: d_model is 0: give a whole number of at least 1"),
        ({"d_state": 2.0}, "Mamba: d_state is 2.0: give a whole number of at least 1"),
        ({"d_conv": True}, "Mamba: d_conv is True: give a whole number of at least 1"),
        ({"expand": "2"}, "Mamba: expand is '2': give a whole number of at least 1"),
        ({"bidirectional": 1}, "Mamba: bidirectional is 1: give True or False"),
        (
            {"backend": "fast"},
            "Mamba: backend is 'fast': choose one of auto, reference, chunked, mamba_ssm",
        ),
    ],
)
def test_bad_options_are_quoted(options, message):
    with pytest.raises(ValueError, match="Mamba: ") as error:
        Mamba(**{"d_model": 8, **options})
    assert str(error.value) == message


def test_other_sequences_and_unavailable_kernels_are_refused():
    x, y = torch.randn(2, 1, 5, 4)
    for arguments, name in (((x, y, y), "key"), ((x, x, y), "value")):
        with pytest.raises(UserError, match=f"Mamba: {name} is another tensor than"):
            Mamba(4)(*arguments)
    with pytest.raises(ValueError, match="backend is 'mamba_ssm', which is not available here"):
        Mamba(4, backend="mamba_ssm")(x)
