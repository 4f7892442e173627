"""Nothing grows with the square of the time, and an hour of audio encodes in one pass."""

import time

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.ops import ChunkMask

NUM_FRAMES = 1500
HOUR = 90_000  # encoder frames at 25 a second


class RecordShapes(TorchDispatchMode):
    """Remembers the shape of every tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self.shapes.update(tuple(tensor.shape) for tensor in tensors)
        return result

    @property
    def quadratic(self):
        """Shapes with two axes as long as the audio, or one as long as its square."""
        return [
            shape
            for shape in self.shapes
            if sum(size >= NUM_FRAMES for size in shape) > 1
            or any(size >= NUM_FRAMES**2 for size in shape)
        ]


def recorded(function):
    with RecordShapes() as record:
        function()
    assert len(record.shapes) > 5
    return record.quadratic


def encode(model, backward=False, **options):
    def run():
        with torch.set_grad_enabled(backward):
            frames = torch.randn(2, NUM_FRAMES, 20)
            output = model.encode(frames, torch.tensor([1.0, 0.6]), **options)
            if backward:
                output.sum().backward()

    return run


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("mask", [None, ChunkMask(1), ChunkMask(64, 2)])
@pytest.mark.parametrize("variant", ["base", "selective", "frequency3"])
def test_mixer(variant, mask, backward):
    mixer = PolynomialMixer(4, variant=variant)
    padding = torch.zeros(2, NUM_FRAMES, dtype=torch.bool)

    def run():
        with torch.set_grad_enabled(backward):
            x = torch.randn(2, NUM_FRAMES, 4)
            output, weights = mixer(x, x, x, attn_mask=mask, key_padding_mask=padding)
            assert weights is None
            if backward:
                output.sum().backward()

    assert not recorded(run)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("encoder_module", ["conformer", "transformer", "branchformer"])
def test_encoders_without_a_mask(build_asr, encoder_module, backward):
    assert not recorded(encode(build_asr("PoM", encoder_module), backward))


@pytest.mark.parametrize("chunks", [(1, None), (16, None), (16, 0), (40, 4)])
def test_dynamic_chunks(build_asr, chunks):
    config = DynChunkTrainConfig(*chunks)
    assert not recorded(encode(build_asr("PoM(3)"), True, dynchunktrain_config=config))


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer"])
def test_causal_encoders(build_asr, encoder_module):
    assert not recorded(encode(build_asr("PoM", encoder_module, causal=True), True))


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_forward_of_an_encoder_with_a_decoder(build_asr):
    model = build_asr("PoM", causal=True, num_decoder_layers=1)
    tokens = torch.randint(1, 10, (2, 5))
    lengths = torch.tensor([1.0, 0.6])
    assert not recorded(lambda: model(torch.randn(2, NUM_FRAMES, 20), tokens, lengths))


def test_attention_is_found_out(build_asr):
    assert recorded(encode(build_asr("regularMHA", num_layers=1)))
    config = DynChunkTrainConfig(16, 1)
    mixed = build_asr("PoM + regularMHA")
    assert (NUM_FRAMES, NUM_FRAMES) in recorded(encode(mixed, dynchunktrain_config=config))


def test_an_hour_in_one_pass(build_asr):
    model = build_asr("PoM", max_length=100)
    frames = torch.randn(1, HOUR, 20)
    start = time.perf_counter()
    with torch.no_grad():
        output = model.encode(frames)
    assert output.shape == (1, HOUR, 16)
    assert torch.isfinite(output).all()
    assert time.perf_counter() - start < 10
