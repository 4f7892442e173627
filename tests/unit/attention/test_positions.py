"""Positions: sines once at the input, of any length, and relative ones where they belong."""

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import PositionalEncoding

NUM_FRAMES = 90_000  # an hour of encoder frames


def test_every_relative_layer_gets_the_positions_and_only_those(build_asr):
    # With its own type alone, RelPosMHAXL uses the same positions and no sines.
    model = build_asr("RelPosMHAXL + regularMHA", positional_encoding=None)
    plain = build_asr("RelPosMHAXL", num_layers=1)
    frames = torch.randn(1, 9, 16)
    layer = model.encoder.layers[0]
    layer.load_state_dict(plain.encoder.layers[0].state_dict())
    seen = []
    for each in model.encoder.layers:
        each.register_forward_hook(
            lambda module, args, kwargs, output: seen.append((kwargs["pos_embs"], output[0])),
            with_kwargs=True,
        )
    model.encoder(frames)
    expected, _ = plain.encoder.layers[0](frames, pos_embs=plain.positional_encoding(frames))
    (positions, output), (no_positions, _) = seen
    assert torch.equal(positions, plain.positional_encoding(frames))
    assert torch.equal(output, expected)
    assert no_positions is None


def test_positions_of_the_caller_are_kept(build_asr):
    encoder = build_asr("RelPosMHAXL + PoM").encoder
    frames = torch.randn(1, 9, 16)
    zeros = torch.zeros(1, 17, 16)
    default, _ = encoder(frames)
    for call in ({"pos_embs": zeros}, {"src": frames, "pos_embs": zeros}):
        args = () if "src" in call else (frames,)
        assert not torch.equal(encoder(*args, **call)[0], default)
    positional, _ = encoder(frames, None, None, zeros)
    assert torch.equal(positional, encoder(frames, pos_embs=zeros)[0])


def test_sines_are_added_once_at_the_input(build_asr):
    with_sines, without = build_asr(), build_asr(positional_encoding=None)
    without.load_state_dict(
        {k: v for k, v in with_sines.state_dict().items() if k != "positional_encoding.pe"}
    )
    frames = torch.randn(2, 9, 20)
    received = []
    for model in (with_sines, without):
        model.encoder.register_forward_pre_hook(
            lambda module, args, kwargs: received.append(kwargs["src"]), with_kwargs=True
        )
        model.encode(frames)
    sines = with_sines.positional_encoding(received[0])
    torch.testing.assert_close(received[0] - received[1], sines.expand(2, 9, 16))


def test_positions_past_the_table_are_those_of_a_longer_table(build_asr):
    model = build_asr("PoM", max_length=100)
    longer = build_asr("PoM", max_length=200)
    frames = torch.randn(2, 130, 20)
    with torch.no_grad():
        assert torch.equal(model.encode(frames), longer.encode(frames))
    frames = torch.zeros(1, NUM_FRAMES, 16)
    assert torch.equal(
        model.positional_encoding(frames), PositionalEncoding(16, NUM_FRAMES)(frames)
    )
    assert model.positional_encoding(frames.double()).dtype == torch.float32
    assert model.double().positional_encoding(frames).dtype == torch.float64


def test_speechbrain_alone_ends_at_its_table(build_asr):
    model = build_asr("regularMHA", max_length=100)
    with pytest.raises(RuntimeError, match="must match the size"):
        model.encode(torch.randn(1, 101, 20))
