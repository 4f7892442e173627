"""Streaming: chunk by chunk equals the masked path, or is refused."""

import functools

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig


def stream(model, frames, config):
    context = model.make_streaming_context(config)
    chunks = frames.split(config.chunk_size, dim=1)
    return torch.cat([model.encode_streaming(chunk, context) for chunk in chunks], dim=1)


@pytest.mark.parametrize(
    "spec", ["PoM", "PoM(3, variant=frequency3)", "RoPEMHA + PoM", "SummaryMixing"]
)
@pytest.mark.parametrize(("chunk_size", "left"), [(16, 1), (8, 3), (5, 20), (12, 0)])
def test_streaming_equals_the_masked_path(build_asr, spec, chunk_size, left):
    model = build_asr(spec, positional_encoding=None)
    config = DynChunkTrainConfig(chunk_size, left)
    frames = torch.randn(2, 60, 20)
    with torch.no_grad():
        masked = model.encode(frames, dynchunktrain_config=config)
        streamed = stream(model, frames, config)
        whole = model.encode(frames)
    torch.testing.assert_close(streamed, masked, rtol=0, atol=1e-5)
    assert (whole - masked).abs().max() > 1e-3  # the masks do something


def test_built_in_types_stream_as_ever(build_asr, without_plugin):
    model = build_asr("RelPosMHAXL")
    config, frames = DynChunkTrainConfig(8, 1), torch.randn(1, 24, 20)
    with torch.no_grad():
        masked = model.encode(frames, dynchunktrain_config=config)
        torch.testing.assert_close(stream(model, frames, config), masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "positional_encoding", "kind"),
    [
        ("PoM(degree=3)", "fixed_abs_sine", "sine"),
        ("RelPosMHAXL + PoM", None, "relative"),
        ("RelPosMHAXL + RoPEMHA", "fixed_abs_sine", "relative"),
        ("regularMHA + PoM", "fixed_abs_sine", "sine"),
    ],
)
def test_positions_that_restart_in_every_chunk_are_refused(
    build_asr, spec, positional_encoding, kind
):
    model = build_asr(spec, positional_encoding=positional_encoding)
    with pytest.raises(ValueError, match="cannot stream") as error:
        stream(model, torch.randn(1, 8, 20), DynChunkTrainConfig(4, 1))
    assert str(error.value) == (
        f"attention_type {spec!r} cannot stream with {kind} positions (SpeechBrain restarts them "
        "in every chunk): train with positional_encoding: null and without RelPosMHAXL layers"
    )


@pytest.mark.parametrize("spec", ["Mamba", "Mamba(bidirectional=False)", "PoM + Fastformer"])
def test_mixers_that_need_more_than_a_left_context_are_refused(build_asr, spec):
    model = build_asr(spec, positional_encoding=None)
    with pytest.raises(ValueError, match="cannot stream") as error:
        stream(model, torch.randn(1, 8, 20), DynChunkTrainConfig(4, 1))
    name = "Fastformer" if "Fastformer" in spec else "Mamba"
    assert str(error.value) == (
        f"{name} cannot stream: a chunk and its left context do not determine its output; choose "
        "another attention_type"
    )


@pytest.mark.parametrize(
    ("spec", "positional_encoding", "reason"),
    [
        ("PoM", "fixed_abs_sine", "attention_type 'PoM' cannot stream with sine positions"),
        ("RelPosMHAXL + PoM", None, "cannot stream with relative positions"),
        ("Mamba(bidirectional=False)", None, "Mamba cannot stream: a chunk and its left"),
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_what_cannot_stream_is_not_trained_with_chunks(
    build_asr, spec, positional_encoding, reason, by_name
):
    model = build_asr(spec, positional_encoding=positional_encoding)
    frames, config = torch.randn(1, 64, 20), DynChunkTrainConfig(8)
    arguments = (torch.ones(1), 0, config)
    options = {"dynchunktrain_config": config} if by_name else {}
    call = functools.partial(model.encode, frames, *([] if by_name else arguments), **options)
    whole = model.train().encode(frames)  # batches without chunks are as ever
    assert torch.isfinite(whole).all()
    with pytest.raises(ValueError, match="dynamic chunks train a model to stream, and") as error:
        call()
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    model.eval()
    call()  # what the masks do to a model can be looked at


def test_what_can_stream_is_trained_with_chunks(build_asr):
    model, config = build_asr("PoM", positional_encoding=None), DynChunkTrainConfig(8, 1)
    frames = torch.randn(1, 64, 20)
    model.train().encode(frames, dynchunktrain_config=config).sum().backward()
    with torch.no_grad():
        stream(model.eval(), frames, config)
