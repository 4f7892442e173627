"""An hour of a stream: the masked pass, in a state that does not grow."""

import pytest
import torch

from tests.unit.encoder.streaming.test_stream import masked, speech


@pytest.mark.slow
def test_an_hour_is_the_masked_pass(make_encoder):
    encoder = make_encoder("PoM + SummaryMixing")
    wav = speech(3600 * 16000)
    stream, found, sizes = encoder.stream(), [], set()
    for packet in wav.split(10 * 16000):
        found.append(stream.accept(packet))
        state = stream.state() if stream.num_frames % 1024 < 256 else {}
        sizes.add(sum(one.numel() for name, one in state.items() if name != "samples"))
    found = torch.cat([*found, stream.finish()])
    assert len(found) == 90_001
    assert len(sizes - {0}) == 1
    expected = masked(encoder, wav, 16, None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
