"""How streams behave today, in SpeechBrain and in other systems."""

import torch
from behaviours import mutation, replace

from speechbrain_pom.encoder.streaming.engine import ChunkEngine
from speechbrain_pom.encoder.streaming.geometry import Chunks
from speechbrain_pom.encoder.streaming.samples import checked_packet
from speechbrain_pom.encoder.streaming.stream import EncoderStream
from speechbrain_pom.inference.streaming.texts import BeamText, GreedyText
from speechbrain_pom.ops.common.running_sums import FadingSums
from speechbrain_pom.ops.common.sums import TimeSums

STREAM = "unit/encoder/streaming/test_stream.py::"
LONG = "unit/encoder/streaming/test_long.py::"
COMMIT = "unit/inference/streaming/test_commit.py::"
MIXERS = "unit/nnet/test_streams.py::"
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


@mutation(16, LONG + "test_a_stream_that_begins_anew_is_the_masked_pass")
def a_pause_begins_another_stream():
    """At a pause all of the state begins anew, convolutions too: the next word lacks its past."""

    def make(original):
        def emptied(states):
            emptied_past = [state._replace(past=state.past * 0) for state in states]
            return original(emptied_past)

        return emptied

    replace("attention.streaming", "emptied_sums", make)


@mutation(16, MIXERS + "test_sums_that_fade_or_begin_anew_are_those_of_the_masked_pass")
def counts_do_not_fade():
    """Sums fade and counts do not: the mean goes to zero."""

    def add(self, chunk):
        sums, counts = self.decay * self.sums + chunk.sums, self.counts + chunk.counts
        return TimeSums(sums, counts), FadingSums(sums, counts, self.decay.clone())

    FadingSums.add = add


@mutation(16, COMMIT + "test_a_hypothesis_that_flips_is_dropped_when_its_words_are_old")
def hypotheses_that_contradict_stay():
    """Old words are told, and the hypotheses that contradict them stay and win."""
    commit = BeamText._commit_old

    def commit_old(self):
        beams = self._beams
        commit(self)
        self._beams = beams

    BeamText._commit_old = commit_old
