"""Windows that overlap, where mixers have no summary: no gap, and no frame from an edge."""

import pytest
import torch

import speechbrain_pom
from speechbrain_pom.attention.positions import ExtendedSinePositions
from speechbrain_pom.encoder.windows.overlapping import encode_windows, windows_are_exact
from tests.unit.encoder.test_windows import (
    SECONDS_PER_FRAME,
    TOLERANCE,
    Sound,
    assert_close,
    randomised,
    whole,
)

ATTENTION = ("regularMHA", "RelPosMHAXL", "hypermixing", "PoM + RelPosMHAXL")
NOT_EXACT = (*ATTENTION, "Mamba", "Mamba + PoM")


@pytest.mark.parametrize("spec", NOT_EXACT)
def test_other_mixers_are_told_apart(make_encoder, spec):
    assert not windows_are_exact(make_encoder(spec))


def test_what_else_is_not_exact(make_encoder):
    causal = make_encoder()
    causal.transformer.causal = True
    assert not windows_are_exact(causal)

    class OtherLayer(type(causal.transformer.encoder.layers[0])):
        pass

    class OtherFeatures(type(causal.features.compute_features)):
        pass

    class OtherFrontEnd(type(causal.front_end)):
        pass

    class OtherPositions(ExtendedSinePositions):
        pass

    for find, other in (
        (lambda encoder: encoder.transformer.encoder.layers[1], OtherLayer),
        (lambda encoder: encoder.features.compute_features, OtherFeatures),
        (lambda encoder: encoder.front_end, OtherFrontEnd),
        (lambda encoder: encoder.transformer.positional_encoding, OtherPositions),
    ):
        encoder = make_encoder()
        find(encoder).__class__ = other
        assert not windows_are_exact(encoder)


@pytest.mark.parametrize("num_samples", [1, 16_000, 16_001, 31_999, 50_000])
@pytest.mark.parametrize(("window", "overlap"), [(25, 4), (25, 0), (10, 9), (25, 7)])
def test_every_frame_is_there_once_and_comes_from_inside_of_its_window(
    make_encoder, num_samples, window, overlap
):
    encoder, sound = make_encoder("RelPosMHAXL"), Sound(num_samples)
    found = encode_windows(
        encoder,
        sound,
        window_s=window * SECONDS_PER_FRAME,
        overlap_s=overlap * SECONDS_PER_FRAME,
        out=torch.full((encoder.num_frames(num_samples), 16), torch.nan),
    )
    assert torch.isfinite(found).all()
    windows = []
    last = max(0, len(found) - window)
    for start in [*range(0, last, window - overlap), last]:
        end = min((start + window) * 640, num_samples)
        with torch.no_grad():
            frames, _ = encoder(sound.wav[None, start * 640 : end])
        windows.append((start, frames[0, :window]))
    for index, frame in enumerate(found):
        sources = [
            position
            for start, frames in windows
            if 0 <= (position := index - start) < len(frames)
            and torch.allclose(frame, frames[position], atol=1e-5)
        ]
        assert sources
        inner = [min(p, window - 1 - p) >= overlap // 2 for p in sources]
        assert any(inner) or index < window or index >= len(found) - window


def test_one_window_for_the_file_is_the_single_pass(make_encoder):
    for spec in NOT_EXACT:
        encoder, sound = randomised(make_encoder(spec)), Sound(20_000)
        assert_close(encode_windows(encoder, sound), whole(encoder, sound), 1e-6)


class Itself(torch.nn.Module):
    """A mixer that sees nothing beyond each frame."""

    def __init__(self, d_model):
        super().__init__()
        self.linear = torch.nn.Linear(d_model, d_model)

    def forward(self, query, key, value, attn_mask=None, key_padding_mask=None, **_):
        return self.linear(query), None


@pytest.fixture
def mixer_without_context():
    speechbrain_pom.register_attention("Itself", Itself, "sees nothing else")
    yield "Itself"
    speechbrain_pom.unregister_attention("Itself")


def test_an_overlap_that_covers_what_the_model_sees_is_enough(make_encoder, mixer_without_context):
    options = {"positional_encoding": None, "num_layers": 1}
    encoder = randomised(make_encoder(mixer_without_context, **options))
    assert not windows_are_exact(encoder)
    sound = Sound(64_000)
    sound.wav = torch.randn(64_000, generator=torch.Generator().manual_seed(0))  # evenly loud
    expected = whole(encoder, sound)
    # 15 frames of the layer's convolution, 2 of the front end
    found = encode_windows(encoder, sound, window_s=2.0, overlap_s=34 * SECONDS_PER_FRAME)
    assert_close(found, expected)
    too_short = encode_windows(encoder, sound, window_s=2.0, overlap_s=10 * SECONDS_PER_FRAME)
    assert (too_short - expected).abs().max() > TOLERANCE * expected.abs().max()
