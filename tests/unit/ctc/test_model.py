"""The model of CTC fine-tuning."""

import copy

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.nnet.linear import Linear

from speechbrain_pom.ctc.model import CTCModel
from speechbrain_pom.nnet import WeightedSum

SMALL = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 2, "cb_vocab": 8}


def build(**options):
    torch.manual_seed(0)
    with open("hparams/pom.yaml") as stream:
        encoder = load_hyperpyyaml(stream, {**SMALL, "positional_encoding": None})["encoder"]
    model = CTCModel(
        encoder, Linear(n_neurons=29, input_size=16), WeightedSum(encoder.num_states), **options
    )
    model(torch.randn(2, 16000), torch.tensor([16000, 9000]), epoch=1)  # statistics of the features
    return model.eval()


@pytest.mark.parametrize("weighted_sum", [False, True])
def test_compiled_it_is_the_same(weighted_sum):
    plain = build(weighted_sum=weighted_sum)
    compiled, graphs = copy.deepcopy(plain), []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled.compile(backend=backend)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    wavs, num_samples = torch.randn(2, 16000), torch.tensor([16000, 9000])
    num_graphs = []
    for chunks in (None, (4, 1), (5, None), (6, 2), None):
        found = []
        for model in (plain, compiled):
            model.zero_grad()
            log_probs, num_frames = model(wavs, num_samples, chunks=chunks)
            log_probs.sin().sum().backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            found.append([log_probs, num_frames, *gradients])
        assert len(found[0]) == len(found[1])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs)
        num_graphs.append(len(graphs))
    assert num_graphs[0] >= 3  # front end, Transformer, head
    assert len(set(num_graphs)) == 1  # chunks make none
