"""Chunks of training: drawn as SpeechBrain draws them, as a function of the step, or refused."""

import re
from collections import Counter

import pytest
import torch
from speechbrain.core import Stage
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfigRandomSampler

from speechbrain_pom.training.chunks import ChunkSampler, chunk_label, read_chunk_label
from speechbrain_pom.utils.errors import UserError

NUM_DRAWS = 8000
KEYS = {
    "chunkwise_prob": 0.7,
    "chunk_size_range": [3, 6],
    "limited_left_context_prob": 0.6,
    "left_context_range": [0, 2],
}


def draws(sampler, number=200, **place):
    place = {"seed": 7, "epoch": 1, "rank": 0, **place}
    return [sampler.draw(step=step, **place) for step in range(1, number + 1)]


def test_it_draws_as_often_as_speechbrain():
    """Every chunk size and left context as SpeechBrain's sampler, within four deviations."""
    theirs = DynChunkTrainConfigRandomSampler(0.7, 3, 6, 0.6, 0, 2)
    torch.manual_seed(0)
    configs = [theirs(Stage.TRAIN) for _ in range(NUM_DRAWS)]
    expected = Counter(
        None if one is None else (one.chunk_size, one.left_context_size) for one in configs
    )
    found = Counter(draws(ChunkSampler(**KEYS), NUM_DRAWS))
    assert found.keys() == expected.keys()
    assert len(found) == 1 + 4 * (1 + 3)
    for chunks, number in expected.items():
        assert abs(found[chunks] - number) < 4 * (2 * number) ** 0.5, chunks


def test_a_draw_depends_on_seed_epoch_step_and_process_alone():
    sampler = ChunkSampler(**KEYS)
    expected = draws(sampler)
    state = torch.get_rng_state()
    backwards = [
        ChunkSampler(**KEYS).draw(7, epoch=1, step=step, rank=0) for step in range(200, 0, -1)
    ]
    assert backwards[::-1] == expected
    assert torch.equal(torch.get_rng_state(), state)
    for other in ({"seed": 8}, {"epoch": 2}, {"rank": 1}):
        assert draws(sampler, **other) != expected


def test_the_ends_of_the_probabilities():
    assert set(draws(ChunkSampler(chunkwise_prob=0))) == {None}
    always = ChunkSampler(chunkwise_prob=1, chunk_size_range=(4, 4), limited_left_context_prob=0)
    assert set(draws(always)) == {(4, None)}
    limited = ChunkSampler(1.0, (4, 4), 1.0, (3, 3))
    assert set(draws(limited)) == {(4, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunkwise_prob": 1.5}, "chunkwise_prob is 1.5: give a probability from 0 to 1"),
        ({"limited_left_context_prob": "x"}, "limited_left_context_prob is 'x': give a prob"),
        ({"chunk_size_range": [0, 4]}, "chunk_size_range is [0, 4]: give the smallest and"),
        ({"chunk_size_range": [8, 4]}, "chunk_size_range is [8, 4]"),
        ({"left_context_range": 3}, "left_context_range is 3: give the smallest and the largest"),
        ({"left_context_range": [1, 2.5]}, "left_context_range is [1, 2.5]"),
        ({"valid_chunk": 16}, "valid_chunk has 16: give null (the full context), or the frames"),
        ({"valid_chunk": [16, True]}, "valid_chunk has [16, True]"),
        ({"valid_chunk": [0, None]}, "chunk_size is 0: it must be at least 1 frame"),
        ({"test_chunks": [16, None]}, "test_chunks has 16: give null"),
        ({"test_chunks": []}, "test_chunks is []: give a list"),
        ({"test_chunks": [None, [8, 1], [8, 1]]}, "one of them is given twice"),
    ],
)
def test_values_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        ChunkSampler(**options)
    assert "\n" not in str(caught.value)


def test_without_streaming_nothing_has_chunks():
    sampler = ChunkSampler.of_run({"chunkwise_prob": 1.0, "valid_chunk": [8, 1]}, torch.nn.Module())
    assert set(draws(sampler)) == {None}
    assert (sampler.valid, sampler.tests) == (None, (None,))
    with pytest.raises(UserError, match="streaming is 'yes': give True or False"):
        ChunkSampler.of_run({"streaming": "yes"}, torch.nn.Module())


def of_run(encoder, **options):
    return ChunkSampler.of_run({"streaming": True, **options}, torch.nn.ModuleList([encoder]))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("PoM + Fastformer", {}, "Fastformer cannot stream"),
        ("hypermixing", {}, "hypermixing ignores chunk masks and sees the future: choose another"),
        ("Mamba", {}, "Mamba(bidirectional=True) cannot stream"),
        ("Mamba(bidirectional=False)", {}, "Mamba cannot stream with a left context of 2 chunks"),
        ("PoM", {"norm_type": "sentence"}, "normalised over the whole utterance (sentence)"),
        ("PoM", {"encoder_module": "branchformer"}, "BranchformerEncoder knows no chunks: choose"),
        ("RoPEMHA", {"causal": True}, "causal: True excludes dynamic chunks"),
    ],
)
def test_encoders_that_would_not_stream_are_refused(make_encoder, spec, options, message):
    causal = options.pop("causal", False)
    encoder = make_encoder(spec, **options)
    for layer in encoder.transformer.encoder.layers if causal else ():
        layer.convolution_module.causal = True
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        of_run(encoder)
    assert str(caught.value).startswith("streaming: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["PoM", "SummaryMixing", "RelPosMHAXL", "RelPosMHAXL + PoM"])
def test_encoders_that_stream_learn_from_chunks(make_encoder, spec):
    """Sines too, and relative positions: a stream gives each chunk its own."""
    encoder = make_encoder(spec).train()
    chunks = of_run(encoder, chunkwise_prob=1).draw(1, 1, 1)
    wavs = 0.1 * torch.randn(1, 8000)
    frames, _ = encoder(wavs, chunks=chunks)
    frames.square().sum().backward()
    gradients = [weight.grad for weight in encoder.transformer.encoder.layers.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_mamba_from_the_left_learns_with_all_of_the_past(make_encoder):
    encoder = make_encoder("Mamba(bidirectional=False)")
    options = {"limited_left_context_prob": 0, "valid_chunk": [8, None]}
    sampler = of_run(encoder, **options)
    assert {chunks[1] for chunks in draws(sampler) if chunks} == {None}
    with pytest.raises(UserError, match=r"left context of 4 chunks.* \(limited_left_context_prob"):
        of_run(encoder, **{**options, "test_chunks": [None, [8, 4]]})


def test_an_encoder_by_itself_refuses_to_learn_what_sees_the_future(make_encoder):
    encoder = make_encoder("hypermixing")
    encoder(torch.randn(1, 8000), chunks=(4, None))  # to look at
    with pytest.raises(UserError, match="dynamic chunks train a model to stream, and hypermixing"):
        encoder.train()(torch.randn(1, 8000), chunks=(4, None))


@pytest.mark.parametrize("chunks", [(16, None), (8, 0), (1, 12)])
def test_labels_are_read_back(chunks):
    assert read_chunk_label(chunk_label(chunks)) == chunks
    assert read_chunk_label(f"{chunk_label(chunks)}x") is None
