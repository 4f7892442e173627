"""Layerdrop: hidden states, gradients, what is drawn, and masked frames, in any encoder."""

import itertools

import pytest
import torch

from speechbrain_pom.attention.calls import encode
from speechbrain_pom.utils.seeding import seed_step

FRAMES, LENGTHS = torch.randn(2, 9, 20), torch.tensor([1.0, 0.5])


@pytest.mark.parametrize("module", ["conformer", "branchformer", "transformer"])
def test_every_layer_has_a_hidden_state_and_a_gradient(build_asr, module):
    model = build_asr("PoM*4", encoder_module=module, layerdrop_prob=0.5, num_encoder_layers=4)
    model.train()
    repeated = set()
    for seed in range(12):
        torch.manual_seed(seed)
        output, states = encode(model, FRAMES, LENGTHS, hidden_states=True)
        assert len(states) == 5
        same = [torch.equal(*pair) for pair in itertools.pairwise(states)]
        repeated.add(tuple(same))
        model.zero_grad()
        (output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum().backward()
        for layer, dropped in zip(model.encoder.layers, same, strict=True):
            gradients = [weight.grad for weight in layer.parameters()]
            assert all(gradient is not None for gradient in gradients)
            assert all((gradient == 0).all() for gradient in gradients) == dropped
    assert len(repeated) > 4
    # SpeechBrain's own number of states varies.
    model.encoder.output_hidden_states = model.output_hidden_states = True
    assert len({len(model.encode(FRAMES, LENGTHS)[1]) for _ in range(12)}) > 1


def test_the_output_is_that_of_speechbrain(build_asr):
    """The same layers are dropped: of existing runs nothing changes."""
    model = build_asr("PoM*4", layerdrop_prob=0.5, num_encoder_layers=4, dropout=0.1).train()
    for seed in range(5):
        torch.manual_seed(seed)
        expected = model.encode(FRAMES, LENGTHS)
        torch.manual_seed(seed)
        assert torch.equal(encode(model, FRAMES, LENGTHS), expected)


@pytest.mark.parametrize("module", ["conformer", "transformer"])
def test_with_a_mask_over_time_too(build_asr, module):
    settings = {"layerdrop_prob": 0.5, "encoder_module": module, "causal": True}
    model = build_asr("PoM*4", num_encoder_layers=4, **settings).train()
    torch.manual_seed(3)
    expected = model.encode(FRAMES, LENGTHS)
    torch.manual_seed(3)
    assert torch.equal(encode(model, FRAMES, LENGTHS), expected)


def test_it_is_a_function_of_seed_epoch_step_and_rank(build_asr):
    model = build_asr("PoM*4", layerdrop_prob=0.5, num_encoder_layers=4).train()

    def dropped(*place):
        seed_step(*place)
        states = encode(model, FRAMES, LENGTHS, hidden_states=True)[1]
        return [torch.equal(*pair) for pair in itertools.pairwise(states)]

    assert dropped(7, 1, 2, 0) == dropped(7, 1, 2, 0)
    assert len({tuple(dropped(7, 1, step, rank)) for step in range(6) for rank in (0, 1)}) > 4


def test_nothing_is_dropped_in_eval_mode(build_asr):
    model = build_asr("PoM*4", layerdrop_prob=0.9, num_encoder_layers=4).eval()
    with torch.no_grad():
        expected = model.encode(FRAMES, LENGTHS)
        output, states = encode(model, FRAMES, LENGTHS, hidden_states=True)
    assert torch.equal(output, expected)
    assert not any(torch.equal(*pair) for pair in itertools.pairwise(states))


def test_the_module_itself_stays_as_it_is(build_asr):
    model = build_asr("PoM*4", layerdrop_prob=0.5, num_encoder_layers=4).train()
    before = {name: id(part) for name, part in model.named_modules()}
    mask = torch.ones(2, 9, dtype=torch.bool)
    encode(model, FRAMES, LENGTHS, True, mask, torch.zeros(16))
    assert {name: id(part) for name, part in model.named_modules()} == before
    assert model.encoder.layerdrop_prob == 0.5
    assert not model.output_hidden_states
    assert not model.encoder.output_hidden_states
