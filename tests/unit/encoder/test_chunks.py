"""The masked pass of an encoder: nothing from beyond a chunk, whatever the batch."""

import pytest
import torch

from speechbrain_pom.attention.streaming import encoder_step, first_states
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError

LENGTHS = [40000, 23000, 700]
FADING = ChunkMask(16, half_life_chunks=2.0)


@pytest.mark.parametrize("chunks", [(16, None), (5, 2), (1, 0)])
@torch.no_grad()
def test_the_masked_pass_in_a_batch_alone_and_step_by_step(make_encoder, chunks):
    encoder = make_encoder("PoM", positional_encoding=None)
    wavs, (size, left) = 0.1 * torch.randn(3, LENGTHS[0]), chunks
    frames, num_frames = encoder(wavs, torch.tensor(LENGTHS), chunks=chunks)
    whole, _ = encoder(wavs, torch.tensor(LENGTHS))
    assert (frames - whole).abs().max() > 1e-3  # the chunks do something
    for row, length in enumerate(LENGTHS):
        wav = wavs[row : row + 1, :length]
        alone, _ = encoder(wav, chunks=chunks)
        torch.testing.assert_close(frames[row, : num_frames[row]], alone[0], rtol=0, atol=1e-5)
        (first, last), _ = encoder(wav, layers=[0, encoder.num_layers], chunks=chunks)
        states, layers = first_states(encoder.transformer.encoder, 1, left), []
        for chunk in first.split(size, dim=1):
            _, hidden, states = encoder_step(encoder.transformer.encoder, chunk, states)
            layers.append(hidden[-1])
        torch.testing.assert_close(torch.cat(layers, dim=1), last, rtol=0, atol=1e-5)


@torch.no_grad()
def test_samples_beyond_a_chunk_change_nothing_in_it(make_encoder):
    """Chunk 0 of 16 frames ends with sample 640 * 16 + 39."""
    encoder, wav = make_encoder("PoM"), 0.1 * torch.randn(1, 40000)
    expected, _ = encoder(wav, chunks=(16, None))
    for sample, same in ((10280, True), (10279, False)):
        changed = wav.clone()
        changed[0, sample] += 0.01
        frames, _ = encoder(changed, chunks=(16, None))
        assert torch.equal(frames[:, :16], expected[:, :16]) == same
        assert not torch.equal(frames, expected)


@torch.no_grad()
def test_what_is_loud_later_changes_nothing_before(make_encoder):
    """SpeechBrain's floor is 80 dB below the loudest value of the whole utterance."""
    encoder, wav = make_encoder("PoM"), 1e-5 * torch.randn(1, 40000)
    expected, _ = encoder(wav[:, :20520], chunks=(16, None))
    wav[:, 21000:] *= 1e5
    frames, _ = encoder(wav, chunks=(16, None))
    torch.testing.assert_close(frames[:, :32], expected[:, :32], rtol=0, atol=1e-5)
    first, _ = encoder(wav, layers=0)
    running, _ = encoder(wav, layers=0, chunks=(16, None))
    assert (first - running)[:, :30].abs().max() > 0.1  # the floors differ there


@pytest.mark.parametrize(
    ("chunks", "options", "message"),
    [
        (16, {}, "chunks is 16: give the frames of a chunk"),
        (FADING, {"attention_type": "RoPEMHA + PoM"}, "RoPEMHA has no sums over time, which alone"),
        (FADING, {"attention_type": "RelPosMHAXL"}, "RelPosMHAXL has no sums over time"),
        (FADING, {"attention_type": "Fastformer"}, "Fastformer has no sums over time"),
        (FADING, {"attention_type": "hypermixing"}, "hypermixing has no sums over time"),
        (FADING, {"attention_type": "Mamba(bidirectional=False)"}, "Mamba has no sums over time"),
        ((0, None), {}, "chunk_size is 0"),
        ((16, None), {"encoder_module": "branchformer"}, "BranchformerEncoder knows no chunks"),
    ],
)
def test_chunks_that_cannot_be_are_refused(make_encoder, chunks, options, message):
    with pytest.raises(UserError, match=message):
        make_encoder(**{"attention_type": "PoM", **options})(torch.randn(1, 8000), chunks=chunks)
