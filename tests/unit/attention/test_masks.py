"""Causal and chunk masks through whole encoders: what may not be seen changes no bit."""

import pytest
import torch
from speechbrain.lobes.models.transformer import TransformerASR as asr
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask
from speechbrain.lobes.models.transformer.TransformerASR import make_transformer_src_mask
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

import speechbrain_pom

NUM_FRAMES = 41


def first_difference(encode):
    """For each changed frame, the first frame whose encoding changes in any bit."""
    frames = torch.randn(2, NUM_FRAMES, 20)
    with torch.no_grad():
        before = encode(frames)
        firsts = []
        for position in range(0, NUM_FRAMES, 5):
            changed = frames.clone()
            changed[:, position:] = 100 * torch.randn(2, NUM_FRAMES - position, 20)
            different = (encode(changed) != before).any(-1).any(0)
            firsts.append((position, int(different.nonzero()[0])))
    return firsts


@pytest.mark.parametrize("spec", ["PoM", "PoM(variant=selective)", "RelPosMHAXL + PoM"])
@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (4, None), (8, 0), (8, 2), (30, 1)])
def test_conformer_with_chunks(build_asr, spec, chunk_size, left):
    model, config = build_asr(spec), DynChunkTrainConfig(chunk_size, left)
    for position, first in first_difference(lambda x: model.encode(x, None, 0, config)):
        assert first == position // chunk_size * chunk_size


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer"])
def test_causal_encoders(build_asr, encoder_module):
    model = build_asr("PoM", encoder_module, causal=True)
    for position, first in first_difference(model.encode):
        assert first == position


def test_without_a_mask_everything_is_seen(build_asr):
    model = build_asr()
    assert {first for _, first in first_difference(model.encode)} == {0}


@pytest.mark.parametrize(("chunk_size", "left"), [(4, None), (8, 0), (8, 2)])
def test_compact_masks_equal_tensors(build_asr, monkeypatch, chunk_size, left):
    model, config = build_asr(), DynChunkTrainConfig(chunk_size, left)
    frames, lengths = torch.randn(2, NUM_FRAMES, 20), torch.tensor([1.0, 0.5])
    with torch.no_grad():
        compact = model.encode(frames, lengths, dynchunktrain_config=config)
        original = make_transformer_src_mask.__wrapped__
        monkeypatch.setattr(asr, "make_transformer_src_mask", original)
        assert torch.equal(model.encode(frames, lengths, dynchunktrain_config=config), compact)


def test_tensor_masks_on_encoders_used_directly():
    encoder = ConformerEncoder(1, 16, 32, 2, kernel_size=1, attention_type="PoM").eval()
    frames = torch.randn(1, 12, 16)
    causal, _ = encoder(frames, src_mask=get_lookahead_mask(frames[..., 0]))
    for t in (1, 5, 12):
        alone, _ = encoder(frames[:, :t])
        torch.testing.assert_close(causal[:, t - 1], alone[:, -1], rtol=1e-5, atol=1e-5)


def test_masks_are_tensors_outside_of_encode(build_asr):
    build_asr().encode(torch.randn(1, 9, 20), dynchunktrain_config=DynChunkTrainConfig(4, 1))
    mask = make_transformer_src_mask(torch.zeros(1, 9, 1), causal=True)
    assert isinstance(mask, torch.Tensor)


def test_dynamic_chunks_of_a_causal_model_are_refused(build_asr):
    with pytest.raises(ValueError, match="causal") as error:
        build_asr(causal=True).encode(
            torch.randn(1, 9, 20), dynchunktrain_config=DynChunkTrainConfig(4, 1)
        )
    assert str(error.value) == "causal: True excludes dynamic chunks: set causal: False"


def test_a_chunk_size_that_cannot_be_is_refused(build_asr):
    with pytest.raises(ValueError, match="chunk_size is 0: it must be at least 1 frame"):
        build_asr().encode(torch.randn(1, 9, 20), dynchunktrain_config=DynChunkTrainConfig(0))


class NeedsTensors(torch.nn.Module):
    """A mixer of others that knows nothing of `ChunkMask`."""

    def __init__(self, d_model):
        super().__init__()
        self.seen = []

    def forward(self, query, key, value, attn_mask=None, key_padding_mask=None, pos_embs=None):
        self.seen.append(attn_mask)
        return query, None


@pytest.mark.parametrize("spec", ["NeedsTensors*2", "NeedsTensors + PoM"])
def test_mixers_of_others_get_tensors(build_asr, registered, spec):
    registered("NeedsTensors", NeedsTensors)
    model = build_asr(spec)
    model.encode(torch.randn(1, 9, 20), dynchunktrain_config=DynChunkTrainConfig(4, 1))
    (mask,) = speechbrain_pom.attention.mixer_of(model.encoder.layers[0]).seen
    assert torch.equal(mask, speechbrain_pom.ops.ChunkMask(4, 1).to_bool(9))
