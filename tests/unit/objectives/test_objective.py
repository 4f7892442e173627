"""The contract of an objective: its defaults."""

import torch

from speechbrain_pom.objectives import Objective, Outcome


def test_the_loss_is_the_mean_over_what_is_predicted():
    loss_sum = torch.tensor(6.0, requires_grad=True)
    outcome = Outcome(loss_sum, 4, {})
    assert outcome.loss.item() == 1.5
    outcome.loss.backward()
    assert float(loss_sum.grad) == 0.25


def test_by_default_all_parts_but_the_encoder_are_saved_and_all_utterances_used():
    objective = Objective(torch.nn.Linear(2, 2))
    objective.head = torch.nn.Linear(2, 3)
    assert objective.recoverables() == {"head": objective.head}
    assert objective.unusable(1) is None
    assert objective.warning({"loss": float("nan")}) is None
    assert objective.fingerprints() == {}
    objective.on_optimizer_step_end()
