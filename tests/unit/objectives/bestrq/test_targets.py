"""Targets: the codes of SpeechBrain's quantizer, without its broadcast, whatever the batch."""

import pytest
import torch
from speechbrain.nnet.quantisers import RandomProjectionQuantizer

from speechbrain_pom.encoder.lengths import pad_to_multiple
from speechbrain_pom.objectives.bestrq.targets import (
    apply_noise,
    nearest_codes,
    quantizer_fingerprint,
    stack_frames,
)


@pytest.fixture(params=[(320, 16, 64), (12, 3, 7), (5, 1, 2), (320, 16, 1000)])
def quantizer(request):
    torch.manual_seed(0)
    return RandomProjectionQuantizer(*request.param)


def test_stacking_concatenates_consecutive_frames():
    feats = torch.rand(2, 12, 5)
    stacked = stack_frames(feats, 3)
    assert stacked.shape == (2, 4, 15)
    assert torch.equal(stacked[1, 2], torch.cat([feats[1, 6], feats[1, 7], feats[1, 8]]))
    with pytest.raises(ValueError, match="63 frames cannot be stacked by 4: pad them with"):
        stack_frames(torch.rand(1, 63, 5), 4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 63), (2, 125)])
def test_codes_are_those_of_the_published_quantizer(quantizer, shape):
    stacked = torch.randn(*shape, quantizer.input_dim) * 3
    codes = nearest_codes(stacked, quantizer.P, quantizer.CB)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, quantizer(stacked))


def test_chunks_bound_the_memory_and_change_nothing(quantizer, monkeypatch):
    stacked = torch.randn(3, 63, quantizer.input_dim)
    num_codes = len(quantizer.CB)
    whole = nearest_codes(stacked, quantizer.P, quantizer.CB)
    held = []
    argmax = torch.Tensor.argmax

    def recording_argmax(products, *args, **kwargs):
        held.append(products.numel())
        return argmax(products, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "argmax", recording_argmax)
    for max_elements in (1, num_codes, 5 * num_codes + 1, 10**9):
        held.clear()
        chunked = nearest_codes(stacked, quantizer.P, quantizer.CB, max_elements)
        assert torch.equal(chunked, whole)
        assert sum(held) == 3 * 63 * num_codes
        assert max(held) <= max(max_elements, num_codes)


def test_codes_do_not_depend_on_autocast_or_precision_of_products(quantizer):
    """Under bf16 autocast SpeechBrain's quantizer gives other codes; these stay."""
    stacked = torch.randn(4, 500, quantizer.input_dim)
    expected = nearest_codes(stacked, quantizer.P, quantizer.CB)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_codes(stacked, quantizer.P, quantizer.CB), expected)
        if len(quantizer.CB) > 2:
            assert not torch.equal(quantizer(stacked), expected)


def test_nearly_equal_codes_are_told_apart_exactly():
    """In float32 rounding would choose, and rounding depends on the size of the batch."""
    torch.manual_seed(0)
    stacked, projection, codebook = torch.randn(500, 32), torch.randn(32, 16), torch.randn(20, 16)
    twins = codebook.clone()
    twins[:, 3] = torch.nextafter(twins[:, 3], torch.tensor(2.0))
    codebook = torch.cat([codebook, twins])
    projected = stacked.double() @ projection.double()
    angles = torch.nn.functional.cosine_similarity(projected[:, None], codebook.double(), dim=-1)
    assert torch.equal(nearest_codes(stacked, projection, codebook), angles.argmax(dim=-1))
    naive = stacked @ projection @ torch.nn.functional.normalize(codebook).T
    assert not torch.equal(naive.argmax(dim=-1), angles.argmax(dim=-1))


def test_codes_of_an_utterance_do_not_depend_on_its_partners(quantizer):
    stride = 4 if quantizer.input_dim % 4 == 0 else 1
    feats = [torch.randn(n, quantizer.input_dim // stride) for n in (1, 7, 63, 500)]
    batch = torch.nn.utils.rnn.pad_sequence(feats, batch_first=True)
    batch = stack_frames(pad_to_multiple(batch, stride), stride)
    together = nearest_codes(batch, quantizer.P, quantizer.CB)
    for row, alone in zip(together, feats, strict=True):
        stacked = stack_frames(pad_to_multiple(alone[None], stride), stride)
        codes = nearest_codes(stacked, quantizer.P, quantizer.CB)[0]
        assert torch.equal(codes, row[: len(codes)])


def test_left_padding_would_change_most_codes():
    """What the published recipe does, as the guard that the test above can fail."""
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(320, 16, 256)
    feats = torch.randn(1, 400, 80)
    shifted = torch.cat([torch.zeros(1, 2, 80), feats[:, :-2]], dim=1)
    codes, other = (
        nearest_codes(stack_frames(x, 4), quantizer.P, quantizer.CB) for x in (feats, shifted)
    )
    assert (codes != other).float().mean() > 0.5


def test_masked_frames_become_noise_and_nothing_else_changes():
    feats, noise = torch.rand(2, 9, 4), torch.randn(2, 9, 4, dtype=torch.float64)
    mask = torch.rand(2, 9) < 0.5
    before = feats.clone()
    noisy = apply_noise(feats, mask, noise)
    assert torch.equal(feats, before)
    assert noisy.dtype == feats.dtype
    assert torch.equal(noisy[~mask], feats[~mask])
    assert torch.equal(noisy[mask], noise[mask].float())


def test_noise_that_does_not_fit_is_refused():
    feats = torch.rand(2, 12, 4)
    for mask, noise in (
        (torch.ones(2, 9, dtype=torch.bool), torch.rand(2, 12, 4)),
        (torch.ones(2, 12, dtype=torch.bool), torch.rand(2, 1, 4)),
    ):
        with pytest.raises(ValueError, match=r"do not fit features \(2, 12, 4\): pad all three"):
            apply_noise(feats, mask, noise)


def test_fingerprint_follows_the_values():
    torch.manual_seed(0)
    quantizer, other = (RandomProjectionQuantizer(8, 4, 16) for _ in range(2))
    fingerprint = quantizer_fingerprint(quantizer)
    assert fingerprint != quantizer_fingerprint(other)
    other.load_state_dict(quantizer.state_dict())
    assert fingerprint == quantizer_fingerprint(other)
    assert fingerprint == quantizer_fingerprint(other.double())
    for name in ("P", "CB"):
        changed = RandomProjectionQuantizer(8, 4, 16)
        changed.load_state_dict(quantizer.state_dict())
        getattr(changed, name)[1, 2] += 1e-6
        assert quantizer_fingerprint(changed) != fingerprint
