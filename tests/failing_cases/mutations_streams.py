"""How streams behave today, in SpeechBrain and in other systems."""

import torch
from behaviours import mutation, replace

from speechbrain_pom.encoder.streaming.engine import ChunkEngine
from speechbrain_pom.encoder.streaming.geometry import Chunks
from speechbrain_pom.encoder.streaming.samples import checked_packet
from speechbrain_pom.encoder.streaming.stream import EncoderStream
from speechbrain_pom.inference.streaming.texts import GreedyText

STREAM = "unit/encoder/streaming/test_stream.py::"
TEXTS = "unit/inference/streaming/test_decoder.py::"


@mutation(16, STREAM + "test_all_splits_into_packets_give_the_same_bits")
def a_packet_is_a_chunk():
    """A call is a chunk, whatever its size: other packets give other outputs."""

    def accept_chunks(self, packet):
        state, engine = self._state, self.engine
        samples = checked_packet(packet)
        state.waiting.append(samples)
        state.num_samples += len(samples)
        count = 0
        while engine.inputs.geometry.num_samples(state.num_frames + count + 1) <= state.num_samples:
            count += 1
        engine.chunks = Chunks(count, engine.chunks.left)
        return engine.step([state]) if count else []

    EncoderStream.accept_chunks = accept_chunks


@mutation(16, STREAM + "test_a_stream_is_the_masked_pass")
def features_are_limited_by_their_chunk():
    """Features are limited to 80 dB below the loudest value of their chunk, not of the speech."""

    def limited(feats, top_db, peak=None):
        loudest = feats.amax((1, 2), keepdim=True)
        return torch.maximum(feats, loudest - top_db), loudest

    replace("encoder.filter_banks", "limited_so_far", lambda _: limited)


@mutation(
    16,
    STREAM + "test_positions_beyond_their_table",
    "unit/attention/test_streaming.py::test_streaming_equals_the_masked_path",
)
def sines_begin_anew():
    """The sines at the input begin anew in every chunk."""

    def make(original):
        return lambda positions, start, stop, frames: original(positions, 0, stop - start, frames)

    replace("attention.positions", "positions_between", make)


@mutation(16, STREAM + "test_lengths_around_all_edges")
def zeros_fill_the_last_chunk():
    """The last chunk is filled up with zeros, and has frames of what was never said."""

    def rest(self, state):
        missing = self._needed(state) - state.num_samples
        state.waiting.append(torch.zeros(missing))
        state.num_samples += missing
        return self.step([state])

    ChunkEngine.rest = rest


@mutation(16, TEXTS + "test_greedy_texts_are_those_of_the_whole")
def partial_words_are_told():
    """Partial texts flip: a word that is not finished is told like the others."""
    partial = GreedyText.partial
    GreedyText.partial = lambda self: (" ".join(partial(self)).strip(), "")
