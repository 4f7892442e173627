"""torch.compile takes a whole encoder as one graph, and its results stay."""

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

ENCODERS = ("conformer", "transformer", "branchformer")
LENGTHS = torch.tensor([1.0, 0.6])


MIX = "PoM(degree=3, recompute=True) + RelPosMHAXL"
# A mix with SpeechBrain's types gets chunk masks as tensors, whose structure is found in their
# values: that needs a graph break.
CASES = [
    *((module, spec, None) for module in ENCODERS for spec in ("PoM", MIX)),
    ("conformer", "PoM", DynChunkTrainConfig(8, 1)),
]


@pytest.mark.parametrize(("encoder_module", "spec", "chunks"), CASES)
def test_an_encoder_is_one_graph(build_asr, encoder_module, spec, chunks):
    torch._dynamo.reset()
    model = build_asr(spec, encoder_module=encoder_module).eval()
    frames = torch.randn(2, 50, 20)
    options = {"dynchunktrain_config": chunks} if chunks else {}

    def encode(frames):
        return model.encode(frames, LENGTHS, **options)

    results = []
    for function in (encode, torch.compile(encode, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        output = function(frames)
        output.square().mean().backward()
        weights = model.encoder.parameters()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        results.append([output.detach(), *gradients])
    assert len(results[0]) > 10
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
