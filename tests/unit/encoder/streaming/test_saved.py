"""A stream that is saved, moved to another process, and resumed to the bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechbrain_pom.attention.streaming import first_states
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT
from tests.helpers.encoders import build_encoder
from tests.unit.encoder.streaming.test_stream import speech, streamed

SPECS = ["PoM", "SummaryMixing + RelPosMHAXL"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("moment", [0, 1, 5159, 5160, 13_000])
def test_a_stream_goes_on_to_the_bit(make_encoder, tmp_path, spec, moment):
    encoder, wav = make_encoder(spec), speech(20_000)
    expected = streamed(encoder.stream(0.32, 0.96), wav)
    stream = encoder.stream(0.32, 0.96)
    first = stream.accept(wav[:moment])
    save_file(stream.state(), tmp_path / "state.safetensors")
    stream.accept(wav[moment:])  # it goes on, and the state stays what it is
    resumed = encoder.stream(state=load_file(tmp_path / "state.safetensors"))
    assert (resumed.num_samples, resumed.num_frames) == (moment, len(first))
    assert torch.equal(torch.cat([first, streamed(resumed, wav[moment:], (777,))]), expected)


PROGRAM = """
import sys, torch
from safetensors.torch import load_file, save_file
from tests.helpers.encoders import build_encoder
torch.set_num_threads(1)
stream = build_encoder().stream(state=load_file(sys.argv[1]))
wav = load_file(sys.argv[2])["wav"]
save_file({"frames": torch.cat([stream.accept(wav), stream.finish()])}, sys.argv[3])
"""


def test_another_process_goes_on(programs, tiny_encoder, tmp_path):
    wav, stream = speech(20_000), tiny_encoder.stream(0.32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = stream.accept(wav[:9000])
        save_file(stream.state(), tmp_path / "state")
        rest = torch.cat([stream.accept(wav[9000:]), stream.finish()])
    finally:
        torch.set_num_threads(threads)
    save_file({"wav": wav[9000:].clone()}, tmp_path / "wav")
    files = [str(tmp_path / name) for name in ("state", "wav", "frames")]
    assert programs.run(["-c", PROGRAM, *files], cwd=ROOT).returncode == 0
    assert len(first) == 8
    assert torch.equal(load_file(tmp_path / "frames")["frames"], rest)


@pytest.mark.parametrize("spec", SPECS)
def test_the_state_has_one_size(make_encoder, spec):
    stream = make_encoder(spec).stream(0.04, 0.08)
    stream.accept(speech(640 + 40))
    sizes = []
    for packet in speech(640 * 100).split(640 * 20):
        state = stream.state()
        for tensor in state.values():
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        sizes.append({name: tensor.shape for name, tensor in state.items()})
        stream.accept(packet)
    assert all(size == sizes[0] for size in sizes)
    assert sizes[0]["samples"] == (240,)
    assert sizes[0]["inputs.features"] == (1, 4, 80)


def test_the_state_of_a_base_model_is_small():
    """12 layers of PoM with d_model 488, of which only the states are made."""
    encoder = build_encoder("PoM", d_model=488, num_layers=12)
    states = first_states(encoder.transformer.encoder, 1)
    parts = [part for state in states for part in (state.past, *state.mixed)]
    assert sum(part.numel() * part.element_size() for part in parts) < 600_000


def test_a_state_of_anything_else_is_refused(make_encoder):
    encoder = make_encoder()
    stream = encoder.stream(0.32, 0.64)
    stream.accept(speech(9000))
    state = stream.state()
    with pytest.raises(UserError, match="the state is of another model"):
        make_encoder(seed=1).stream(state=state)
    with pytest.raises(UserError, match="the state is of another model"):
        make_encoder("SummaryMixing").stream(state=state)
    bank = encoder.features.compute_features.compute_fbanks
    bank.top_db = 60.0
    with pytest.raises(UserError, match="the state is of another model"):
        encoder.stream(state=state)
    bank.top_db = 80.0
    message = "chunks of 8 frames that see 2 chunks before, not 16 frames that see 2 chunks before"
    with pytest.raises(UserError, match=message):
        encoder.stream(0.64, state=state)
    with pytest.raises(UserError, match="not 8 frames that see 1 chunks before"):
        encoder.stream(left_s=0.32, state=state)
    with pytest.raises(UserError, match="not 16 frames that see all chunks before"):
        encoder.stream_pool().open(state=state)
    encoder.stream(0.32, 0.64, state=state)
    for wrong in ({}, {"chunks": torch.tensor([9, 8, 2])}, [state]):
        with pytest.raises(UserError, match="not one of a stream of this version"):
            encoder.stream(state=wrong)
    with pytest.raises(UserError, match=r"damaged: layers.1.past is missing"):
        encoder.stream(state={**state, "layers.1.past": state["layers.1.past"][:, 1:]})
    with pytest.raises(UserError, match="damaged: it has 3 samples in place of"):
        encoder.stream(state={**state, "samples": torch.zeros(3)})


def test_states_of_quantised_encoders():
    encoders = [
        torch.ao.quantization.quantize_dynamic(build_encoder(seed=seed), {torch.nn.Linear})
        for seed in (0, 1)
    ]
    wav, stream = speech(12_000), encoders[0].stream(0.32)
    first = stream.accept(wav[:7000])
    rest = streamed(encoders[0].stream(state=stream.state()), wav[7000:])
    expected = streamed(encoders[0].stream(0.32), wav)
    assert torch.equal(torch.cat([first, rest]), expected)
    with pytest.raises(UserError, match="the state is of another model"):
        encoders[1].stream(state=stream.state())


def test_the_state_after_a_week(make_encoder):
    """Sums, counts and offset of a week: the mean of a constant stays what it is."""
    encoder = make_encoder("PoM + SummaryMixing", positional_encoding=None)
    wav = speech(640 * 8 * 5, seed=3)
    stream = encoder.stream(0.32)
    stream.accept(wav)
    state = stream.state()
    factor = 7 * 24 * 3600 * 25 // int(state["layers.0.mixed.counts"])
    later = {
        name: tensor * factor if "mixed" in name else tensor.clone()
        for name, tensor in state.items()
    }
    # The same means of a week of frames: the next chunk hardly moves them.
    later["counts"] = state["counts"] + torch.tensor([640, 1]) * 8 * 10**6
    now, then = encoder.stream(state=state), encoder.stream(state=later)
    found = then.accept(wav)
    assert found.dtype == torch.float32
    assert len(found) == 40
    counts = then.state()["layers.1.mixed.counts"]
    assert int(counts) == factor * int(state["layers.1.mixed.counts"]) + 40
    # Against sums of the week in which the chunks' own part is negligible.
    means = then.state()["layers.0.mixed.sums"] / counts
    before = later["layers.0.mixed.sums"] / later["layers.0.mixed.counts"]
    assert 0 < (means - before).abs().max() < 1e-4
    assert now.num_frames != then.num_frames
