"""Streaming: chunk by chunk equals the masked path, or is refused."""

import functools

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

import speechbrain_pom
from speechbrain_pom.ops.common.inputs import prepare
from speechbrain_pom.ops.common.means import rows_of_queries, visible_means
from speechbrain_pom.utils.errors import UserError


def stream(model, frames, config):
    context = model.make_streaming_context(config)
    chunks = frames.split(config.chunk_size, dim=1)
    return torch.cat([model.encode_streaming(chunk, context) for chunk in chunks], dim=1)


LIMITED = [(16, 1), (8, 3), (5, 20), (12, 0)]
CASES = {
    "PoM": [(16, None), *LIMITED],
    "PoM(3, variant=frequency3)": [(16, None), *LIMITED],
    "SummaryMixing": [(16, None), *LIMITED],
    "Mamba(bidirectional=False)": [(16, None), (5, None)],
    "RoPEMHA + PoM": LIMITED,
    "RelPosMHAXL + RoPEMHA": LIMITED,
    "regularMHA + RelPosMHAXL": LIMITED,
}


@pytest.mark.parametrize("positional_encoding", [None, "fixed_abs_sine"])
@pytest.mark.parametrize(
    ("spec", "chunk_size", "left"), [(spec, *case) for spec in CASES for case in CASES[spec]]
)
def test_streaming_equals_the_masked_path(build_asr, spec, chunk_size, left, positional_encoding):
    model = build_asr(spec, positional_encoding=positional_encoding)
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
    ("spec", "left", "message"),
    [
        ("Mamba", None, "Mamba(bidirectional=True) cannot stream: one of its blocks begins at"),
        ("Mamba(bidirectional=False)", 1, "Mamba cannot stream with a left context of 1 chunks"),
        ("PoM + Fastformer", None, "Fastformer cannot stream: its softmaxes run over"),
        ("RoPEMHA + PoM", None, "RoPEMHA keeps the frames that it attends to: give a finite left"),
        ("hypermixing + PoM", 1, "hypermixing cannot mix a stream step by step: choose another"),
    ],
)
def test_what_cannot_stream_is_refused_in_one_line(build_asr, spec, left, message):
    model = build_asr(spec, positional_encoding=None)
    with pytest.raises(UserError) as error:
        model.make_streaming_context(DynChunkTrainConfig(4, left))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_hypermixing_alone_is_refused_too(build_asr):
    """SpeechBrain ends in a RuntimeError or an unset variable, at the first or second chunk."""
    model = build_asr("hypermixing")
    with pytest.raises(UserError, match="hypermixing cannot stream: it mixes all frames"):
        stream(model, torch.randn(1, 16, 20), DynChunkTrainConfig(8, 1))


def test_a_call_is_a_chunk(build_asr):
    """SpeechBrain takes any number of frames for a chunk, and gives other outputs."""
    model, frames = build_asr("PoM"), torch.randn(1, 16, 20)
    context = model.make_streaming_context(DynChunkTrainConfig(8))
    with pytest.raises(UserError, match="a chunk of 16 frames where chunks have 8: a call is"):
        model.encode_streaming(frames, context)
    model.encode_streaming(frames[:, :8], context)
    model.encode_streaming(frames[:, :5], context)
    with pytest.raises(UserError, match="a chunk of 5 frames where chunks have 8: a call is"):
        model.encode_streaming(frames[:, 5:8], context)


def test_frames_with_channels_are_flattened(build_asr):
    model, frames = build_asr("PoM"), torch.randn(1, 8, 20)
    context = model.make_streaming_context(DynChunkTrainConfig(8))
    expected = model.encode_streaming(frames, context)
    context = model.make_streaming_context(DynChunkTrainConfig(8))
    assert torch.equal(model.encode_streaming(frames.view(1, 8, 5, 4), context), expected)


class LeftFrames(speechbrain_pom.TokenMixer):
    """A mixer of one's own without steps: the mean of what a frame sees."""

    accepts_chunk_mask = True

    def __init__(self, d_model):
        super().__init__()
        self.proj = torch.nn.Linear(d_model, d_model)

    def mix_frames(self, query, key, attn_mask, key_padding_mask):
        query, _, mask = prepare(query, None, key_padding_mask, attn_mask)
        means = visible_means(query, key_padding_mask, mask).to(query.dtype)
        return self.proj(query + rows_of_queries(means, mask, query.shape[1]))


@pytest.fixture
def left_frames():
    speechbrain_pom.register_attention("LeftFrames", LeftFrames, "mean of what is seen")
    yield "LeftFrames"
    speechbrain_pom.unregister_attention("LeftFrames")


def test_mixers_without_steps_stream_as_speechbrain_does(build_asr, left_frames):
    model = build_asr(left_frames, positional_encoding=None)
    config, frames = DynChunkTrainConfig(8, 2), torch.randn(1, 44, 20)
    with torch.no_grad():
        masked = model.encode(frames, dynchunktrain_config=config)
        torch.testing.assert_close(stream(model, frames, config), masked, rtol=0, atol=1e-5)
    model.train().encode(frames, dynchunktrain_config=config)  # so it may be trained with chunks
    with pytest.raises(UserError, match="LeftFrames cannot mix a stream step by step"):
        model.make_streaming_context(DynChunkTrainConfig(8))
    model = build_asr(left_frames, positional_encoding="fixed_abs_sine")
    with pytest.raises(UserError, match="'LeftFrames' cannot stream with sine positions"):
        stream(model, frames, config)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("Mamba", "Mamba(bidirectional=True) cannot stream"),
        ("PoM + Fastformer", "Fastformer cannot stream"),
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_what_cannot_stream_is_not_trained_with_chunks(build_asr, spec, reason, by_name):
    model = build_asr(spec, positional_encoding=None)
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


@pytest.mark.parametrize("spec", ["PoM", "RelPosMHAXL + PoM", "Mamba(bidirectional=False)"])
@pytest.mark.parametrize("positional_encoding", [None, "fixed_abs_sine"])
def test_what_can_stream_is_trained_with_chunks(build_asr, spec, positional_encoding):
    model = build_asr(spec, positional_encoding=positional_encoding)
    config = DynChunkTrainConfig(8, None if "Mamba" in spec else 1)
    frames = torch.randn(1, 64, 20)
    model.train().encode(frames, dynchunktrain_config=config).sum().backward()
    with torch.no_grad():
        stream(model.eval(), frames, config)
