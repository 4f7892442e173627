"""A Conformer chunk by chunk in a constant state: equal to the masked pass, or refused."""

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom.attention.streaming import encoder_step, first_states, obstacle_to_steps
from speechbrain_pom.utils.errors import UserError

SPECS = ["PoM", "PoM(variant=frequency3)", "SummaryMixing", "PoM + SummaryMixing(mode=lite)"]
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def stream(model, frames, chunk_size, left):
    """Outputs of all chunks, and the states after each."""
    states, outputs = [first_states(model.encoder, len(frames), left)], []
    for chunk in model.custom_src_module(frames).split(chunk_size, dim=1):
        output, hidden, state = encoder_step(model.encoder, chunk, states[-1])
        normed = model.encoder.norm(hidden[-1])
        torch.testing.assert_close(normed, output, rtol=0, atol=0, equal_nan=True)
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, dim=1), states


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("spec", [*SPECS, "Mamba(bidirectional=False)"])
@torch.no_grad()
def test_a_stream_is_the_masked_pass(build_asr, spec, dtype):
    for kernel_size in (7, 1):
        model = build_asr(spec, positional_encoding=None, kernel_size=kernel_size).to(dtype)
        frames = torch.randn(2, 63, 20, dtype=dtype)
        whole = model.encode(frames)
        for left in [None] if "Mamba" in spec else [None, 0, 3]:
            for chunk_size in (1, 5, 16):
                config = DynChunkTrainConfig(chunk_size, left)
                expected = model.encode(frames, dynchunktrain_config=config)
                found, _ = stream(model, frames, chunk_size, left)
                torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[dtype])
                if kernel_size > 1:  # the masks do something
                    assert (whole - expected).abs().max() > 1e-3


@torch.no_grad()
def test_states_have_one_size_and_hold_no_larger_tensor(build_asr):
    model = build_asr("PoM + Mamba(bidirectional=False)", positional_encoding=None)
    _, states = stream(model, torch.randn(3, 63, 20), 5, None)
    for state in states:
        for layer, first in zip(state, states[0], strict=True):
            parts = zip([layer.past, *layer.mixed], [first.past, *first.mixed], strict=True)
            for part, of_first in parts:
                assert (part.shape, part.dtype) == (of_first.shape, of_first.dtype)
                assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


@torch.no_grad()
def test_nothing_from_the_future(build_asr):
    model, frames = build_asr("PoM", positional_encoding=None), torch.randn(1, 40, 20)
    expected, _ = stream(model, frames, 10, None)
    frames[:, 20:] = torch.nan
    found, _ = stream(model, frames, 10, None)
    assert torch.equal(found[:, :20], expected[:, :20])
    assert torch.isnan(found[:, 20:]).all()


@pytest.mark.parametrize(
    ("spec", "options", "left", "message"),
    [
        ("PoM + Fastformer", {}, None, "Fastformer cannot stream: its softmaxes run over"),
        ("Mamba", {}, None, r"Mamba\(bidirectional=True\) cannot stream"),
        ("Mamba(bidirectional=False)", {}, 2, "Mamba cannot stream with a left context of 2"),
        ("hypermixing", {}, None, "hypermixing cannot mix a stream step by step"),
        ("RoPEMHA + PoM", {}, None, "RoPEMHA keeps the frames that it attends to: give a finite"),
        ("RoPEMHA + PoM", {}, 2, "chunk_size is None: attention needs it"),
        ("PoM", {"encoder_module": "branchformer"}, None, "BranchformerEncoderLayer cannot"),
        ("PoM", {"causal": True}, None, "the convolutions are causal or dilated"),
    ],
)
def test_what_cannot_stream_is_refused_in_one_line(build_asr, spec, options, left, message):
    encoder = build_asr(spec, **options).encoder
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        first_states(encoder, 1, left)
    assert obstacle_to_steps(build_asr("PoM").encoder, left) is None
