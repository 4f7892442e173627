"""BEST-RQ as an objective: partners, validation, options, several processes' view, compiling."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_pom.objectives import Draw
from speechbrain_pom.objectives.bestrq import quantizer_fingerprint
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT

SIZE = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 1, "cnn_channels": 4}
SIZE |= {"cb_vocab": 32, "dropout": 0.0, "mask_scope": "utterance", "output_folder": "unused"}
LENGTHS = torch.tensor([24000, 16000, 9000])
IDS = ["a", "b", "c"]


def build(**overrides):
    with open(ROOT / "hparams/pom.yaml", encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, {**SIZE, **overrides})["objective"]


def signals():
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(3, int(LENGTHS.max()), generator=generator)
    for wav, length in zip(wavs, LENGTHS, strict=True):
        wav[length:] = 0.0
    return wavs


@pytest.fixture(scope="module")
def objective():
    """With statistics of its features."""
    objective = build()
    objective(signals(), LENGTHS, IDS, Draw(1, 1, 1))
    return objective.eval()


def outcome(objective, rows, draw):
    rows = torch.tensor(rows)
    lengths = LENGTHS[rows]
    wavs = signals()[rows, : int(lengths.max())]
    with torch.no_grad():
        return objective(wavs, lengths, [IDS[row] for row in rows], draw)


def test_validation_is_a_function_of_the_utterances(objective):
    """Not of the batches that they come in, nor of the epoch, nor of any generator."""
    first, other = (Draw(7, epoch, 0, training=False) for epoch in (1, 5))
    together = outcome(objective, [0, 1, 2], first)
    torch.manual_seed(5)
    apart = [outcome(objective, rows, other) for rows in ([2, 0], [1])]
    for name in ("counts", "num_masked", "num_valid", "num_correct"):
        total = sum(part.sums[name] for part in apart)
        assert torch.equal(torch.as_tensor(total), torch.as_tensor(together.sums[name])), name
    assert together.weight == sum(part.weight for part in apart)
    expected = sum(float(part.loss_sum) for part in apart)
    assert float(together.loss_sum) == pytest.approx(expected, rel=1e-5)


def test_masks_of_training_are_new_in_each_epoch(objective):
    draws = [outcome(objective, [0, 1, 2], Draw(7, epoch, 3)) for epoch in (1, 1, 2)]
    assert torch.equal(draws[0].sums["counts"], draws[1].sums["counts"])
    assert not torch.equal(draws[0].sums["counts"], draws[2].sums["counts"])


def test_the_loss_is_the_mean_over_the_masked_positions(objective):
    found = outcome(objective, [0, 1], Draw(7, 1, 1))
    assert found.weight == int(found.sums["counts"].sum()) > 1
    assert float(found.loss) == pytest.approx(float(found.loss_sum) / found.weight)
    assert objective.summary(found.sums)["loss"] == pytest.approx(float(found.loss))


def test_all_that_is_trained_has_a_gradient():
    objective = build()
    objective(signals(), LENGTHS, IDS, Draw(1, 1, 1)).loss.backward()
    missing = [name for name, weight in objective.named_parameters() if weight.grad is None]
    assert missing == []


def test_what_it_says_of_itself(objective):
    assert (objective.name, objective.best, objective.num_codes) == ("BEST-RQ", "loss", 32)
    assert objective.fingerprints() == {"quantizer": quantizer_fingerprint(objective.quantizer)}
    assert sorted(objective.recoverables()) == ["linear", "quantizer"]
    assert objective.unusable(1119) == "7 frames are too short for a mask: one of 4 needs 8"
    assert objective.unusable(1120) is None
    collapsed = {"top_code_share": 0.9, "code_perplexity": 1.5}
    assert objective.warning(collapsed).startswith("targets have collapsed")


def test_options_are_checked_when_it_is_built():
    with pytest.raises(UserError, match="mask_length = 6 frames must be a positive multiple of 4"):
        build(mask_length=6)


def test_compiled_it_is_the_same(objective):
    draw = Draw(7, 1, 2, training=False)
    eager = outcome(objective, [0, 1, 2], draw)
    compiled = build()
    compiled.load_state_dict(objective.state_dict())
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled.eval().compile(backend=backend)
    found = outcome(compiled, [0, 1, 2], draw)
    assert len(graphs) == 3  # front end, Transformer, linear
    for chunks in ((4, 1), (5, None)):  # each would be another graph, of hundreds
        chunked = Draw(7, 1, 2, training=False, chunks=chunks)
        plain, again = (outcome(one, [0, 1, 2], chunked) for one in (objective, compiled))
        torch.testing.assert_close(again.loss_sum, plain.loss_sum)
        assert not torch.equal(again.loss_sum, found.loss_sum)
    assert len(graphs) == 3
    torch.testing.assert_close(found.loss_sum, eager.loss_sum)
    assert found.sums["num_correct"] == eager.sums["num_correct"]
