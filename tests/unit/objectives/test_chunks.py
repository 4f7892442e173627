"""Objectives and CTC with dynamic chunks: exact under padding, gradients too, and as drawn."""

import pytest
import torch
from speechbrain.nnet.losses import ctc_loss
from speechbrain.nnet.quantisers import RandomProjectionQuantizer

from speechbrain_pom.ctc.model import CTCModel
from speechbrain_pom.encoder.lengths import relative_lengths
from speechbrain_pom.nnet import WeightedSum
from speechbrain_pom.objectives import Draw
from speechbrain_pom.objectives.bestrq import BestRQ
from speechbrain_pom.objectives.wav2vec2 import GumbelQuantizer, Wav2Vec2
from tests.helpers.encoders import build_encoder

LENGTHS = torch.tensor([24000, 16000, 9000])
IDS = ["a", "b", "c"]
PLACE = {"seed": 7, "epoch": 1, "step": 3}


def signals(rows=(0, 1, 2)):
    wavs = 0.1 * torch.randn(3, 24000, generator=torch.Generator().manual_seed(1))
    wavs[torch.arange(24000) >= LENGTHS.unsqueeze(1)] = 0.0
    rows = list(rows)
    return wavs[rows, : int(LENGTHS[rows].max())], LENGTHS[rows], [IDS[row] for row in rows]


def bestrq(spec):
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(input_dim=320, cb_dim=8, cb_vocab=16)
    linear = torch.nn.Linear(16, 16)
    return BestRQ(build_encoder(spec), quantizer, linear, mask_scope="utterance").eval()


def wav2vec2(spec):
    encoder = build_encoder(spec)
    quantizer = GumbelQuantizer(640, num_codes=8, groups=2, code_size=4, output_size=8)
    return Wav2Vec2(encoder, quantizer, num_negatives=10).eval()


@pytest.mark.parametrize("build", [bestrq, wav2vec2])
@pytest.mark.parametrize("spec", ["PoM", "SummaryMixing(mode=lite)", "RelPosMHAXL"])
def test_losses_and_gradients_do_not_depend_on_the_partners(build, spec):
    """In validation, where noise and masks are those of the utterance."""
    objective = build(spec)
    draw = Draw(**PLACE, training=False, chunks=(5, 1))

    def pass_over(rows):
        objective.zero_grad()
        outcome = objective(*signals(rows), draw)
        outcome.loss_sum.backward()
        weights = objective.encoder.transformer.encoder.layers.named_parameters()
        return outcome, {name: weight.grad.clone() for name, weight in weights}

    together, gradients = pass_over([0, 1, 2])
    apart = [pass_over([row]) for row in range(3)]
    key = "contrastive_sum" if build is wav2vec2 else "loss_sum"
    total = sum(float(one.sums[key]) for one, _ in apart)
    assert float(together.sums[key]) == pytest.approx(total, rel=1e-5)
    if build is bestrq:  # the other one has a diversity loss, of all utterances together
        for name, gradient in gradients.items():
            expected = sum(found[name] for _, found in apart)
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
    whole = objective(*signals(), Draw(**PLACE, training=False))
    assert abs(float(whole.sums[key]) / total - 1) > 1e-5  # the chunks do something
    assert torch.equal(whole.sums["counts"], together.sums["counts"])  # but not to the targets


def test_the_objective_is_given_what_was_drawn():
    objective = bestrq("PoM")
    seen = []
    encode = objective.encoder.encode
    objective.encoder.encode = lambda *args, chunks: (
        seen.append(chunks) or encode(*args, chunks=chunks)
    )
    for chunks in (None, (4, None)):
        objective(*signals(), Draw(**PLACE, chunks=chunks))
    assert seen == [None, (4, None)]


@pytest.mark.parametrize("weighted_sum", [False, True])
def test_ctc_in_a_batch_and_alone(weighted_sum):
    model = CTCModel(build_encoder("PoM"), torch.nn.Linear(16, 5), WeightedSum(3), weighted_sum)
    model.eval()
    wavs, num_samples, _ = signals()
    log_probs, num_frames = model(wavs, num_samples, chunks=(4, 2))
    whole, _ = model(wavs, num_samples)
    assert (log_probs - whole)[0].abs().max() > 1e-4
    for row, length in enumerate(num_samples):
        alone, _ = model(wavs[row : row + 1, :length], length[None], chunks=(4, 2))
        found = log_probs[row, : num_frames[row]]
        torch.testing.assert_close(found, alone[0], rtol=0, atol=1e-5)
    tokens = torch.ones(3, 2, dtype=torch.long)
    loss = ctc_loss(
        log_probs, tokens, relative_lengths(num_frames, log_probs.shape[1]), torch.ones(3), 0
    )
    loss.backward()
    layers = model.encoder.transformer.encoder.layers
    assert all(torch.isfinite(weight.grad).all() for weight in layers.parameters())


@torch.no_grad()
def test_ctc_with_chunks_hears_nothing_of_what_comes_later():
    """Not even by the floor of its features, which a stream does not know."""
    model = CTCModel(build_encoder("PoM"), torch.nn.Linear(16, 5), WeightedSum(3)).eval()
    wavs = 1e-6 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(3))
    louder = wavs.clone()
    louder[:, 12000:] += torch.randn(1, 12000, generator=torch.Generator().manual_seed(4))
    for chunks, same in (((8, None), True), (None, False)):
        first, second = (
            model(one, torch.tensor([24000]), chunks=chunks)[0] for one in (wavs, louder)
        )
        assert torch.equal(first[:, :16], second[:, :16]) == same
