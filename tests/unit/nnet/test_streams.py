"""Streams chunk by chunk: equal to the masked pass, in a constant state that does not age."""

import warnings

import pytest
import torch

from speechbrain_pom.nnet import Fastformer, Mamba, PolynomialMixer, SummaryMixing
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.ops.common.running_sums import FadingSums, RingSums, RunningSums
from speechbrain_pom.utils.errors import UserError

BY_SUMS = {
    "PoM": (PolynomialMixer, {"degree": 3}),
    "PoM selective": (PolynomialMixer, {"variant": "selective"}),
    "PoM frequency2": (PolynomialMixer, {"variant": "frequency2"}),
    "PoM frequency3": (PolynomialMixer, {"variant": "frequency3"}),
    "PoM reference": (PolynomialMixer, {"backend": "reference"}),
    "SummaryMixing": (SummaryMixing, {"nhead": 2, "summary_out_dim": 14}),
    "SummaryMixing wav2vec 2.0": (
        SummaryMixing,
        {"nhead": 2, "activation": "swish", "layer_norm": True},
    ),
    "SummaryMixing lite": (SummaryMixing, {"nhead": 2, "mode": "lite"}),
    "SummaryMixing lite, norm": (SummaryMixing, {"nhead": 2, "mode": "lite", "layer_norm": True}),
}
MAMBA = {
    "Mamba": (Mamba, {"bidirectional": False}),
    "Mamba d_conv 1": (Mamba, {"bidirectional": False, "d_conv": 1}),
    "Mamba reference": (Mamba, {"bidirectional": False, "backend": "reference"}),
}
MIXERS = BY_SUMS | MAMBA
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}
every_mixer = pytest.mark.parametrize("name", MIXERS)


def build(name, dtype=torch.float32):
    kind, options = MIXERS[name]
    mixer = kind(12, **options).to(dtype).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return mixer


def stream(mixer, frames, chunk_size, left=None, half_life=None, resets=()):
    """All outputs in one tensor, and the states between the chunks."""
    fading = {} if half_life is None else {"half_life_chunks": half_life}
    states, outputs = [mixer.first_state(len(frames), left, **fading)], []
    for number, chunk in enumerate(frames.split(chunk_size, dim=1)):
        if number in resets:
            states[-1] = states[-1].emptied()
        output, state = mixer.step(chunk, states[-1])
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, dim=1), states


def contexts(name):
    return [None] if name in MAMBA else [None, 0, 3]


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("chunk_size", [1, 5, 16])
@every_mixer
@torch.no_grad()
def test_a_stream_is_the_masked_pass(name, chunk_size, dtype):
    mixer = build(name, dtype)
    for num_frames in (1, 63):  # less than a chunk, and a last chunk that is not whole
        frames = torch.randn(2, num_frames, 12, dtype=dtype)
        whole, _ = mixer(frames)
        for left in contexts(name):
            expected, _ = mixer(frames, attn_mask=ChunkMask(chunk_size, left))
            found, _ = stream(mixer, frames, chunk_size, left)
            assert found.dtype == expected.dtype
            assert error(found, expected) < TOLERANCES[dtype]
            if num_frames == 63 and name not in MAMBA:  # and the mask does something
                assert error(found, whole) > 1e-3


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("left", "half_life", "resets"),
    [(None, 3.3, []), (None, 0.7, [4, 5, 9]), (None, None, [2, 11]), (3, None, [1, 5, 6, 12])],
)
@pytest.mark.parametrize("name", BY_SUMS)
@torch.no_grad()
def test_sums_that_fade_or_begin_anew_are_those_of_the_masked_pass(
    name, left, half_life, resets, dtype
):
    mixer, frames = build(name, dtype), torch.randn(2, 63, 12, dtype=dtype)
    mask = ChunkMask(4, left, half_life, [resets, resets] if resets else None)
    expected, _ = mixer(frames, attn_mask=mask)
    found, states = stream(mixer, frames, 4, left, half_life, resets)
    assert found.dtype == expected.dtype
    assert error(found, expected) < TOLERANCES[dtype]
    plain, _ = stream(mixer, frames, 4, left)
    assert error(plain, expected) > 1e-3
    if half_life is not None:
        assert type(states[-1]) is FadingSums
    sizes = [[(part.shape, part.dtype) for part in state] for state in states]
    assert all(size == sizes[0] for size in sizes)


@torch.no_grad()
def test_streams_of_a_batch_fade_from_their_own_start():
    mixer, frames = build("PoM"), torch.randn(2, 40, 12)
    alone = [stream(mixer, one[None], 8, half_life=2.0)[0] for one in (frames[0], frames[1, 16:])]
    _, states = stream(mixer, frames[:1, :16], 8, half_life=2.0)
    parts = zip(states[-1], mixer.first_state(1, half_life_chunks=2.0), strict=True)
    state = FadingSums(*(torch.cat(pair) for pair in parts))
    for start in (16, 24, 32):
        output, state = mixer.step(frames[:, start : start + 8], state)
        assert error(output[:1], alone[0][:, start : start + 8]) < 1e-5
        assert error(output[1:], alone[1][:, start - 16 : start - 8]) < 1e-5


@torch.no_grad()
def test_a_half_life_forgets_and_does_not_age():
    """After a week of another sound a frame sees the last seconds, as if there were no week."""
    mixer, frames = build("PoM"), torch.randn(1, 160, 12)
    _, one = mixer.step(3 * torch.randn(1, 4, 12), mixer.first_state(1, None, 2.0))
    week = one._replace(sums=7 * one.sums, counts=7 * one.counts)  # no sum is ever more than that
    found, _ = mixer.step(frames[:, :4], week)
    fresh, expected = stream(mixer, frames, 4, half_life=2.0)[0], None
    for chunk in frames.split(4, dim=1):
        expected, week = mixer.step(chunk, week)
    assert error(found, fresh[:, :4]) > 0.05
    assert error(expected, fresh[:, -4:]) < 1e-3


@every_mixer
@torch.no_grad()
def test_the_size_of_a_state_is_constant_and_its_tensors_stand_alone(name):
    mixer = build(name)
    for left in contexts(name):
        _, states = stream(mixer, torch.randn(3, 63, 12), 5, left)
        for state in states:
            assert type(state) is type(states[0])
            for part, first in zip(state, states[0], strict=True):
                assert (part.shape, part.dtype) == (first.shape, first.dtype)
                assert len(part) == 3
                assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


@every_mixer
@torch.no_grad()
def test_a_state_is_not_changed_by_a_step_and_goes_on_to_the_bit(name):
    mixer, frames = build(name), torch.randn(2, 60, 12)
    for left in contexts(name):
        expected, states = stream(mixer, frames, 10, left)
        kept = type(states[3])(*(part.clone() for part in states[3]))
        again, _ = mixer.step(frames[:, 30:40], states[3])
        assert torch.equal(again, expected[:, 30:40])
        assert all(map(torch.equal, states[3], kept))


@every_mixer
@torch.no_grad()
def test_streams_of_a_batch_may_begin_at_any_time(name):
    mixer, first, second = build(name), torch.randn(1, 40, 12), torch.randn(1, 20, 12)
    for left in contexts(name):
        alone, states = stream(mixer, first, 10, left)
        other, _ = stream(mixer, second, 10, left)
        joined = zip(states[2], mixer.first_state(1, left), strict=True)
        state = type(states[2])(*(torch.cat(parts) for parts in joined))
        for start in (0, 10):
            chunks = first[:, 20 + start : 30 + start], second[:, start : start + 10]
            output, state = mixer.step(torch.cat(chunks), state)
            assert error(output[:1], alone[:, 20 + start : 30 + start]) < 1e-5
            assert error(output[1:], other[:, start : start + 10]) < 1e-5


@pytest.mark.parametrize("name", MAMBA)
@torch.no_grad()
def test_mamba_streams_frames_in_any_pieces(name):
    mixer, frames = build(name), torch.randn(2, 40, 12)
    state, outputs = None, []  # None: the start
    for piece in frames.split([1, 2, 20, 1, 16], dim=1):
        output, state = mixer.step(piece, state)
        outputs.append(output)
    assert error(torch.cat(outputs, dim=1), mixer(frames)[0]) < 1e-5


@pytest.mark.parametrize("name", BY_SUMS)
@torch.no_grad()
def test_a_week_does_not_age_a_state(name):
    """A frame after 2^26 frames of a stream still counts; in fp32 it would not."""
    mixer, chunk = build(name), torch.randn(1, 1, 12)
    _, one = mixer.step(torch.randn(1, 1, 12))
    week = 2**26
    state = RunningSums(one.sums * week, one.counts * week)
    for _ in range(3):
        _, state = mixer.step(chunk, state)
    assert state.counts.item() == week + 3
    _, added = mixer.step(chunk)
    expected = 3 * added.sums
    assert error(state.sums - one.sums * week, expected) < 1e-5
    naive, count = (one.sums * week).float(), torch.tensor(float(week))  # float32 loses them
    for _ in range(3):
        naive, count = naive + added.sums.float(), count + 1
    assert count == week
    assert error(naive - (one.sums * week).float(), expected) > 0.01


@torch.no_grad()
def test_what_has_left_the_context_leaves_no_trace():
    """Not even NaN or a value that swallows others: nothing is subtracted."""
    mixer, frames = build("PoM"), torch.randn(1, 50, 12)
    loud = frames.clone()
    loud[:, :10] = torch.nan
    expected, _ = stream(mixer, frames, 10, 1)
    found, states = stream(mixer, loud, 10, 1)
    assert isinstance(states[-1], RingSums)
    assert torch.isnan(found[:, 10:20]).all()
    assert torch.equal(found[:, 20:], expected[:, 20:])


@pytest.mark.parametrize("name", BY_SUMS)
def test_gradients_pass_through_the_states(name):
    mixer = build(name, torch.float64)
    frames = torch.randn(2, 15, 12, dtype=torch.float64, requires_grad=True)
    leaves = [frames, *mixer.parameters()]
    for left in (None, 1):
        outputs = (
            stream(mixer, frames, 4, left)[0],
            mixer(frames, attn_mask=ChunkMask(4, left))[0],
        )
        found, expected = (torch.autograd.grad(out.square().sum(), leaves) for out in outputs)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@every_mixer
@torch.no_grad()
def test_projections_with_a_hook_stream_as_well(name):
    mixer, frames = build(name), torch.randn(2, 30, 12)
    expected, _ = stream(mixer, frames, 8)
    for module in mixer.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            module.register_forward_hook(lambda *_: None)
    assert error(stream(mixer, frames, 8)[0], expected) < 1e-5


class Wrapped(torch.nn.Module):
    """A projection inside of another module, as adapters hold it: its sizes are not to be seen."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, frames):
        return self.inner(frames)


@every_mixer
@torch.no_grad()
def test_wrapped_and_quantised_projections_stream_as_well(name):
    mixer, frames = build(name), torch.randn(2, 30, 12)
    expected, _ = stream(mixer, frames, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(mixer, {torch.nn.Linear})
    linear = [path for path, part in mixer.named_modules() if isinstance(part, torch.nn.Linear)]
    for path in linear:
        mixer.set_submodule(path, Wrapped(mixer.get_submodule(path)))
    assert error(stream(mixer, frames, 8)[0], expected) < 1e-5
    masked, _ = quantised(frames, attn_mask=ChunkMask(8))
    assert error(stream(quantised, frames, 8)[0], masked) < 0.1  # activations have other scales


@pytest.mark.parametrize(
    ("mixer", "left", "message"),
    [
        (Fastformer(8, 2), None, "Fastformer cannot stream: its softmaxes run over the whole"),
        (Mamba(8), None, r"Mamba\(bidirectional=True\) cannot stream: one of its blocks begins"),
        (Mamba(8, False), 3, "Mamba cannot stream with a left context of 3 chunks: its state"),
        (PolynomialMixer(8), -1, "left_context_chunks is -1: give 0 or more chunks"),
    ],
)
def test_what_cannot_stream_says_so_in_one_line(mixer, left, message):
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        mixer.first_state(1, left)
    if left is None:
        assert "\n" not in mixer.obstacle_to_steps()
        with pytest.raises(UserError, match=f"^{message}"):
            mixer.step(torch.randn(1, 5, 8))
    assert (mixer.obstacle_to_steps(left) is None) == (left == -1)


@every_mixer
def test_a_state_of_other_streams_is_refused(name):
    mixer = build(name)
    with pytest.raises(UserError, match=r"the state is of 1 streams and the frames are of 2"):
        mixer.step(torch.randn(2, 5, 12), mixer.first_state(1))
