"""Two processes: their average gradient is that of one process with both batches."""

import os
import traceback

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from speechbrain_pom.objectives import Draw
from speechbrain_pom.objectives.wav2vec2.processes import shares_of_processes
from tests.unit.objectives.wav2vec2.builders import build, signals

ROWS = ([0, 2], [1])
DRAW = Draw(7, 1, 1, optimizer_step=3)


def gradients_of(module, objective, rows, draw=DRAW):
    objective.zero_grad()
    outcome = module(*signals(rows), draw)
    outcome.loss.backward()
    return {name: weight.grad.clone() for name, weight in objective.named_parameters()}, outcome


CASES = {
    "processes": {"diversity_weight": 20.0},
    "process": {"diversity_weight": 20.0, "diversity_scope": "process"},
    "layerdrop": {"layerdrop_prob": 0.6},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """For each case the gradients under DistributedDataParallel, each rank with its own batch."""
    import torch._dynamo

    folder, children = tmp_path_factory.mktemp("processes"), []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            _become_rank(rank, folder)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    return torch.load(folder / "found.pt", weights_only=True)


def _become_rank(rank, folder):
    code = 1
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
        )
        found = {}
        for case, options in CASES.items():
            objective = build(**options).train()
            module = DistributedDataParallel(objective)
            torch.manual_seed(rank)  # so that each drops other layers
            for _ in range(3):
                found[case], _ = gradients_of(module, objective, ROWS[rank])
        if rank == 0:
            torch.save(found, folder / "found.pt")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def expected():
    """The gradients of one process with both batches."""
    objective = build(**CASES["processes"]).train()
    return gradients_of(objective, objective, [0, 2, 1])[0]


def test_the_average_gradient_is_that_of_the_whole_batch(found, expected):
    for name, gradient in expected.items():
        twice = 2 * found["processes"][name]
        torch.testing.assert_close(twice, gradient, rtol=2e-3, atol=2e-4, msg=name)


def test_with_diversity_of_each_process_alone_it_is_another(found, expected):
    """The published way, as the guard that the test above can fail."""
    name = "quantizer.to_logits.bias"
    assert (2 * found["process"][name] - expected[name]).norm() > 0.02 * expected[name].norm()


def test_layers_that_only_one_process_drops(found):
    """Neither waits for the gradient of a layer that the other dropped."""
    assert all(gradient.isfinite().all() for gradient in found["layerdrop"].values())


def test_one_process_alone():
    soft = torch.rand(2, 8, requires_grad=True)
    assert torch.equal(shares_of_processes(soft, 5), soft / 5)


@pytest.mark.parametrize("training", [True, False])
def test_validation_waits_for_nobody(monkeypatch, training):
    """Not every process need have a batch there."""
    asked = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", asked.append)
    with torch.no_grad():
        build().eval()(*signals(), Draw(7, 1, 1, training=training))
    assert len(asked) == training
