"""wav2vec 2.0 as an objective: partners, validation, steps, options, compiling, reports."""

import json

import pytest
import torch

from speechbrain_pom.objectives import Draw
from speechbrain_pom.objectives.wav2vec2 import GumbelQuantizer, diversity_loss, reference
from speechbrain_pom.training.sums import EpochSums
from speechbrain_pom.utils.errors import UserError
from tests.unit.objectives.wav2vec2.builders import build, signals

TRAINING = Draw(7, 1, 1, optimizer_step=3)
VALIDATION = Draw(7, 1, 0, training=False)
ADDING_UP = ("counts", "num_masked", "num_valid", "num_correct", "num_dropped", "num_negatives")


@pytest.fixture(scope="module")
def objective():
    return build().eval()


def outcome(objective, rows, draw):
    with torch.no_grad():
        return objective(*signals(rows), draw)


@pytest.mark.parametrize("draw", [TRAINING, VALIDATION], ids=["training", "validation"])
def test_it_is_a_function_of_the_utterances(objective, draw):
    """Of each alone: not of the batches that they come in, nor of any generator."""
    together = outcome(objective, [0, 1, 2], draw)
    torch.manual_seed(5)
    apart = [outcome(objective, rows, draw) for rows in ([2, 0], [1])]
    for name in ADDING_UP:
        total = sum(part.sums[name] for part in apart)
        assert torch.equal(torch.as_tensor(total), torch.as_tensor(together.sums[name])), name
    for name in ("contrastive_sum", "soft_counts"):
        total = sum(part.sums[name] for part in apart)
        torch.testing.assert_close(total, together.sums[name], rtol=1e-4, atol=1e-4)


def test_with_batch_scope_it_is_not(objective):
    """The published way, as the guard that the test above can fail."""
    published = build(mask_scope="batch").eval()
    published.load_state_dict(objective.state_dict())
    together = outcome(published, [0, 2], TRAINING)
    apart = [outcome(published, [row], TRAINING) for row in (0, 2)]
    assert together.sums["num_masked"] < sum(part.sums["num_masked"] for part in apart)


def test_what_padding_holds_does_not_matter(objective):
    wavs, num_samples, ids = signals()
    noisy = wavs.clone()
    for wav, length in zip(noisy, num_samples, strict=True):
        wav[length:] = 3.0
    with torch.no_grad():
        clean, found = (objective(one, num_samples, ids, TRAINING) for one in (wavs, noisy))
    assert torch.equal(found.loss_sum, clean.loss_sum)


def test_validation_is_a_function_of_the_weights(objective):
    first, other = (
        outcome(objective, [0, 1, 2], Draw(7, epoch, 0, training=False, optimizer_step=step))
        for epoch, step in ((1, 10), (5, 10_000))
    )
    assert torch.equal(first.loss_sum, other.loss_sum)
    assert "gumbel_temperature" not in objective.summary(first.sums)


def test_training_is_new_in_each_epoch_and_the_same_when_repeated(objective):
    draws = [Draw(7, epoch, 3, optimizer_step=5) for epoch in (1, 1, 2)]
    losses = [outcome(objective, [0, 1, 2], draw).loss_sum for draw in draws]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_the_temperature_is_a_function_of_the_optimizer_step():
    objective = build()
    assert objective.gumbel_temperature(0) == 2.0
    assert objective.gumbel_temperature(100_000) == pytest.approx(1.213, abs=1e-3)
    assert objective.gumbel_temperature(300_000) == pytest.approx(0.446, abs=1e-3)
    assert objective.gumbel_temperature(415_887) > 0.25
    assert objective.gumbel_temperature(415_888) == 0.25
    objective(*signals(), Draw(7, 1, 1)).loss.backward()
    hot = objective.quantizer.to_logits.weight.grad.clone()
    objective.zero_grad()
    objective(*signals(), Draw(7, 1, 1, optimizer_step=200_000)).loss.backward()
    assert not torch.equal(hot, objective.quantizer.to_logits.weight.grad)
    stats = objective.summary(objective(*signals(), Draw(7, 1, 1, optimizer_step=200_000)).sums)
    assert stats["gumbel_temperature"] == pytest.approx(2 * 0.999995**200_000)


def test_the_loss_is_the_slow_one(monkeypatch):
    """The sum over the masked frames, from what the objective predicts and quantizes."""
    objective, seen = build().double().eval(), {}
    whole = objective.contrast

    def spying(context, latents, masked, noise, temperature):
        found, quantized = whole(context, latents, masked, noise, temperature)
        predictions = objective.linear(context.flatten(0, 1)[masked.index])
        seen.update(x=predictions, quantized=quantized, masked=masked, noise=noise)
        return found, quantized

    monkeypatch.setattr(objective, "contrast", spying)
    found = outcome(objective, [0, 1, 2], TRAINING)
    masked, quantized = seen["masked"], seen["quantized"]
    assert seen["noise"].shape == quantized.logits.shape
    x, y = (part.split(masked.counts) for part in (seen["x"], quantized.targets))
    negatives = [row[:count] for row, count in zip(masked.negatives, masked.counts, strict=True)]
    expected = reference.loss(x, y, negatives, quantized.logits, 0.1, 0.1)
    torch.testing.assert_close(found.loss_sum, expected, rtol=1e-9, atol=0)
    assert found.weight == 1
    assert found.sums["num_masked"] == sum(masked.counts)
    diversity = diversity_loss(quantized.logits)
    assert float(found.sums["diversity_sum"] / sum(masked.counts)) == pytest.approx(diversity)


def test_reduction_mean(objective):
    found = outcome(objective, [0, 1, 2], VALIDATION)
    averaged = build(reduction="mean").eval()
    mean = outcome(averaged, [0, 1, 2], VALIDATION)
    assert (found.weight, mean.weight) == (1, found.sums["num_masked"])
    assert averaged.summary(mean.sums) == objective.summary(found.sums)
    assert float(mean.loss) == pytest.approx(objective.summary(found.sums)["loss"])


@pytest.mark.parametrize("draw", [TRAINING, Draw(7, 2, 5, optimizer_step=9)])
def test_all_that_is_trained_has_a_gradient(draw):
    """With layerdrop too: several processes wait for each of them."""
    objective = build(layerdrop_prob=0.5, dropout=0.1)
    torch.manual_seed(draw.step)
    objective(*signals(), draw).loss.backward()
    missing = [name for name, weight in objective.named_parameters() if weight.grad is None]
    assert missing == []
    layers = objective.encoder.transformer.encoder.layers
    dropped = [all((weight.grad == 0).all() for weight in layer.parameters()) for layer in layers]
    assert any(dropped)
    assert not all(dropped)


def test_the_targets_move_the_front_end():
    """Not detached: gradients reach codes, logits and front end through the targets alone."""
    objective = build(diversity_weight=0.0)
    for weight in objective.encoder.transformer.parameters():
        weight.requires_grad_(False)
    objective(*signals(), TRAINING).loss.backward()
    for name in ("codebook", "to_logits.weight", "proj.weight"):
        assert objective.quantizer.get_parameter(name).grad.abs().sum() > 0
    front_end = objective.encoder.front_end.convs[0].weight
    with_targets = front_end.grad.clone()
    objective.zero_grad()
    objective(*signals(), Draw(7, 1, 1, optimizer_step=400_000)).loss.backward()
    assert not torch.equal(front_end.grad, with_targets)  # another temperature of the codes


def test_masked_frames_are_hidden(objective):
    """What enters the encoder there is the learnt vector, whatever the audio."""
    mask = torch.zeros(1, 30, dtype=torch.bool)
    mask[:, 10:20] = True
    num_frames, vector = torch.tensor([30]), objective.mask_vector()
    latents = torch.randn(2, 1, 30, 12)
    latents[1] = torch.where(mask.unsqueeze(-1), torch.randn(1, 30, 12), latents[0])
    encoded = [
        objective.encoder.contextualise(one, num_frames, mask=mask, mask_vector=vector)
        for one in latents
    ]
    assert torch.equal(*encoded)
    seen = [objective.encoder.contextualise(one, num_frames) for one in latents]
    assert not torch.equal(*seen)


def test_what_it_says_of_itself(objective):
    assert (objective.name, objective.best) == ("wav2vec 2.0", "loss")
    assert sorted(objective.recoverables()) == ["linear", "mask_vector", "quantizer"]
    assert objective.unusable(10 * 160) == (
        "3 frames are too short for masked and visible ones: masks of 10 need 11"
    )
    shortest = (7 + 2 * 10 - 1) * 160  # 27 feature frames are 11 frames
    assert objective.unusable(shortest) is None
    assert objective.unusable(shortest - 1).startswith("10 frames are too short")
    assert objective.unusable(0).startswith("0 frames")
    stats = objective.summary(outcome(objective, [0, 1, 2], VALIDATION).sums)
    declared = {metric.name for metric in objective.metrics if "valid" in metric.parts}
    assert declared == set(stats)
    assert 0.6 < stats["masked_share"] < 0.85
    assert objective.warning({**stats, "dropped_negatives": 0.9}).startswith("targets have coll")


def test_the_shortest_usable_utterance_is_used(objective):
    wavs = 0.1 * torch.randn(1, 26 * 160)
    with torch.no_grad():
        found = objective(wavs, torch.tensor([26 * 160]), ["a"], TRAINING)
    assert found.sums["num_masked"] == 10
    assert found.loss_sum.isfinite()


def test_an_utterance_without_a_mask_leaves_the_others_alone(objective):
    """Speed perturbation may shorten one below what can be masked."""
    wavs, num_samples, ids = signals([0, 1])
    with torch.no_grad():
        expected = objective(wavs[1:, :16000], num_samples[1:], ids[1:], TRAINING)
        found = objective(wavs, torch.tensor([1500, 16000]), ids, TRAINING)
    assert found.sums["num_masked"] == expected.sums["num_masked"]
    torch.testing.assert_close(found.loss_sum, expected.loss_sum, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_prob": 2}, "mask_prob = 2: give a share"),
        ({"num_negatives": 0}, "num_negatives = 0: give a whole number of at least 1"),
        ({"diversity_weight": -1}, "diversity_weight = -1: give a number of at least 0"),
        ({"diversity_scope": "all"}, "diversity_scope = 'all': choose one of processes, process"),
        ({"reduction": "max"}, "reduction = 'max': choose one of sum, mean"),
        ({"contrastive_temperature": 0}, "contrastive_temperature = 0: give a number above 0"),
        ({"gumbel_temperature_floor": -1}, "gumbel_temperature_floor = -1: give a number above"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(UserError) as error:
        build(**options)
    assert str(error.value).startswith(message)


def test_a_quantizer_of_another_width_is_refused():
    objective = build()
    with pytest.raises(UserError, match="the quantizer reads frames of 10, and the front end"):
        type(objective)(objective.encoder, GumbelQuantizer(10))(*signals(), TRAINING)


def test_compiled_it_is_the_same():
    objective = build(num_layers=1).eval()
    eager = outcome(objective, [0, 1, 2], VALIDATION)
    compiled = build(num_layers=1)
    compiled.load_state_dict(objective.state_dict())
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled.eval().compile(backend=backend)
    found = outcome(compiled, [0, 1, 2], VALIDATION)
    torch.testing.assert_close(found.loss_sum, eager.loss_sum)
    assert len(graphs) == 3  # front end, Transformer, quantizer


def test_statistics_add_up_alike_in_any_order(objective):
    """Resumed processes add up what they had before as one: no bit of the history may change."""
    draws = [Draw(7, epoch, 1, optimizer_step=7 * epoch) for epoch in range(1, 7)]
    batches = [outcome(objective, [0, epoch % 3], draw).sums for epoch, draw in enumerate(draws)]

    def total(order):
        sums = EpochSums()
        for number in order:
            sums.add(**batches[number])
        again = EpochSums()
        again.load_state_dict(json.loads(json.dumps(sums.state_dict())))
        return again

    orders = [range(6), [5, 1, 3, 0, 2, 4], [4, 5, 2, 3, 1, 0]]
    first, *others = (objective.summary(total(order)) for order in orders)
    assert others == [first, first]
    for sums in batches:  # and this can fail
        sums["soft_counts"] = sums["soft_counts"] / 3
    assert len({tuple(total(order)["soft_counts"].tolist()) for order in orders}) > 1
