"""From audio files to words with times."""

import itertools
import random
import tempfile

import pytest
import soundfile
import torch
from torch import nn

from speechbrain_pom.ctc.decoding import greedy_decode, make_beam_searcher
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.ctc.tokenizers import CharacterUnits
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.inference import SpeechRecogniser
from speechbrain_pom.inference.transcription import Transcript, split_at_pauses, transcribe
from speechbrain_pom.utils.errors import UserError

FRAME = 640  # samples
FRAME_S = 0.04
EARLY_S = 0.005  # the first feature frame is centred at 0
TEXTS = ["THE CAT SAT ON THE MAT", "A DOG SAT THERE"]


@pytest.fixture(params=["char", "bpe"])
def units(request, tmp_path):
    return make_units(request.param, TEXTS, num_pieces=30, folder=tmp_path / "units")


class LevelEncoder(nn.Module):
    """Its frames are the levels of the waveform: labels can be written into an audio file."""

    sample_rate, hop_ms, samples_per_frame, d_model = 16000, 10, FRAME, 1

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(64.0))

    @property
    def device(self):
        return self.scale.device

    def forward(self, wavs, lengths=None):
        frames = self.scale * wavs.unfold(1, FRAME, FRAME).mean(-1, keepdim=True)
        return frames, torch.full((len(wavs),), frames.shape[1])


class LevelHead(nn.Module):
    """The label of a level is sure; how much so does not depend on which label it is."""

    def __init__(self, num_outputs, sharpness):
        super().__init__()
        self.num_outputs, self.sharpness = num_outputs, sharpness

    def forward(self, frames):
        labels = frames.squeeze(-1).round().long()
        return self.sharpness * nn.functional.one_hot(labels, self.num_outputs).float()


def level_recogniser(units, sharpness=8.0):
    return SpeechRecogniser(LevelEncoder(), LevelHead(units.size, sharpness), units).eval()


def write_labels(path, labels):
    """An audio file in which `level_recogniser` finds these labels."""
    wav = torch.tensor(labels, dtype=torch.float32).repeat_interleave(FRAME) / 64
    soundfile.write(path, wav.numpy(), 16000, subtype="FLOAT")
    return path


def speak(text, units, pauses, seed=0):
    """Frames' labels: each label 1 to 3 frames long, pauses (in frames) between the words."""
    draw = random.Random(seed)
    labels, waiting = [], 0
    pieces = [units.vocab_list[label] for label in units.encode(text)]
    for piece, label in zip(pieces, units.encode(text), strict=True):
        if piece.startswith((" ", "\u2581")):
            waiting = draw.choice(pauses)
        if draw.random() < 0.5 and piece == " ":  # models write the space before a pause or after
            labels += [label] + [0] * waiting
        else:
            labels += [0] * max(waiting, draw.choice([1, 1, 2])) + [label] * draw.choice([1, 2, 3])
        waiting = 0
    return [*labels, 0]


def greedy(labels, units):
    outputs = nn.functional.one_hot(torch.tensor([labels]), units.size).float()
    return greedy_decode(outputs, torch.ones(1), units)[0]


def decode_spans(labels, spans, units):
    texts = [greedy(labels[start:stop], units) for start, stop in spans]
    return " ".join(text for text in texts if text)


def check_times(transcript):
    """Everything in order and inside of the file."""
    words = [word for segment in transcript.segments for word in segment.words]
    assert all(word.start_s < word.end_s and 0 <= word.confidence <= 1 for word in words)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(words))
    assert words[0].start_s >= 0
    assert words[-1].end_s <= transcript.duration_s
    for segment in transcript.segments:
        assert segment.text == " ".join(word.text for word in segment.words)
        assert (segment.start_s, segment.end_s) == (
            segment.words[0].start_s,
            segment.words[-1].end_s,
        )
        mean = sum(word.confidence for word in segment.words) / len(segment.words)
        assert segment.confidence == pytest.approx(mean)


def test_words_have_the_times_of_the_file(tmp_path):
    units = CharacterUnits()
    h, i, space, a = units.encode("HI A")
    labels = [0] * 5 + [h, h, 0, i, space] + [0] * 40 + [a] + [0] * 3
    path = write_labels(tmp_path / "a.wav", labels)
    found = transcribe(level_recogniser(units), path)
    assert found.text == "HI A"
    assert found.duration_s == len(labels) * FRAME_S
    hi, the_a = (segment.words[0] for segment in found.segments)
    assert (hi.start_s, hi.end_s) == pytest.approx((5 * FRAME_S - EARLY_S, 9 * FRAME_S - EARLY_S))
    wanted = (50 * FRAME_S - EARLY_S, 51 * FRAME_S - EARLY_S)
    assert (the_a.start_s, the_a.end_s) == pytest.approx(wanted)
    probability = torch.tensor([8.0] + [0.0] * (units.size - 1)).softmax(0)[0].item()
    assert hi.confidence == pytest.approx(probability, rel=1e-4)
    check_times(found)


@pytest.mark.parametrize(("pause_frames", "num_segments"), [(14, 1), (15, 2), (40, 2)])
def test_pauses_of_600_ms_separate_segments(pause_frames, num_segments, tmp_path):
    units = CharacterUnits()
    labels = [0, 2, 1, *[0] * pause_frames, 3, 0]
    path = write_labels(tmp_path / "a.wav", labels)
    found = transcribe(level_recogniser(units), path)
    assert [segment.text for segment in found.segments] == ["A B", "A", "B"][num_segments - 1 :][
        :num_segments
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("max_segment_s", [0.3, 2.0, 30.0])
def test_segments_lose_no_word_of_greedy_decoding(units, seed, max_segment_s, tmp_path):
    text = " ".join(random.Random(seed).choices(" ".join(TEXTS).split(), k=25))
    labels = speak(text, units, pauses=[0, 0, 3, 14, 15, 16, 63], seed=seed)
    path = write_labels(tmp_path / "a.wav", labels)
    assert greedy(labels, units) == text
    # Some word ends in the second half of each segment: none has to be cut.
    longest = max(len(list(run)) for run in words_of(labels, units))
    max_segment_s = max(max_segment_s, 2 * longest * FRAME_S)
    found = transcribe(level_recogniser(units), path, window_s=1e6, max_segment_s=max_segment_s)
    assert found.text == text
    assert len(found.segments) > 2
    check_times(found)


def words_of(labels, units):
    """Frames of each word, with the blanks that follow."""
    word = []
    for label in labels:
        if units.vocab_list[label].startswith((" ", "\u2581")):
            yield word
            word = []
        word.append(label)
    yield word


def test_cutting_anywhere_would_lose_words(units):
    text = " ".join(TEXTS)
    labels = speak(text, units, pauses=[0, 16])
    naive = [(start, start + 5) for start in range(0, len(labels), 5)]
    assert decode_spans(labels, naive, units) != text


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_frames", [1, 2, 7, 63, 500])
def test_segments_cover_all_frames_and_are_not_too_long(units, seed, max_frames):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, units.size, (500,), generator=generator)
    labels[torch.rand(500, generator=generator) < 0.5] = 0
    labels = labels.repeat_interleave(torch.randint(1, 4, (500,), generator=generator))
    spans = split_at_pauses(labels, units, pause_frames=15, max_frames=max_frames)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(labels)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    # Labels of up to 3 frames, and seldom twice the same: there is always a cut nearby.
    assert all(0 < stop - start <= max(max_frames, 9) for start, stop in spans)
    for start, _ in spans[1:]:
        assert labels[start - 1] != labels[start] or labels[start] == 0


def test_the_longest_run_of_blanks_is_cut_in_its_middle():
    units = CharacterUnits()
    a, space = units.encode("A")[0], 1
    labels = [a] * 10 + [space] + [0] * 3 + [a] + [space] + [0] * 6 + [a] * 9
    spans = split_at_pauses(torch.tensor(labels), units, pause_frames=15, max_frames=22)
    assert spans == [(0, 19), (19, 31)]


def test_a_word_is_cut_only_where_there_is_nothing_else():
    units = CharacterUnits()
    a, b, space = 2, 3, 1
    # 20 blanks inside of a word are no pause, and the short gap beside the space is preferred.
    labels = torch.tensor([a] * 3 + [0] * 20 + [b] + [space] + [a] * 3)
    assert split_at_pauses(labels, units, pause_frames=15, max_frames=99) == [(0, 28)]
    assert split_at_pauses(labels, units, 15, 26) == [(0, 24), (24, 28)]
    assert split_at_pauses(labels, units, 10, 99) == [(0, 13), (13, 28)]  # of twice the length
    one_word = torch.tensor([a] * 5 + [0] * 4 + [b] * 5)
    assert split_at_pauses(one_word, units, 15, 10) == [(0, 7), (7, 14)]
    without_blanks = torch.tensor([a] * 5 + [b] * 5)
    assert split_at_pauses(without_blanks, units, 15, 8) == [(0, 5), (5, 10)]
    later = torch.tensor([a] * 12 + [b])
    assert split_at_pauses(later, units, 15, 8) == [(0, 12), (12, 13)]
    assert split_at_pauses(torch.tensor([a] * 50), units, 15, 8) == [(0, 50)]
    assert split_at_pauses(torch.tensor([a]), units, 15, 8) == [(0, 1)]


@pytest.mark.parametrize("num_frames", [1, 63, 500])
def test_silence_has_no_segments(num_frames, tmp_path):
    path = write_labels(tmp_path / "a.wav", [0] * num_frames)
    found = transcribe(level_recogniser(CharacterUnits()), path)
    assert found == Transcript([], num_frames * FRAME_S)
    assert found.text == ""


def test_a_word_in_a_single_frame(tmp_path):
    found = transcribe(level_recogniser(CharacterUnits()), write_labels(tmp_path / "a.wav", [2]))
    assert found.text == "A"
    check_times(found)


def test_the_decoder_gets_one_segment_after_the_other(tmp_path):
    units = CharacterUnits()
    path = write_labels(tmp_path / "a.wav", [2, 1, *[0] * 20, 3, 3, 0])
    shapes = []

    def decode(log_probs, lengths):
        shapes.append((tuple(log_probs.shape), lengths.tolist()))
        return ["SEA" if len(shapes) == 1 else ""]

    found = transcribe(level_recogniser(units), path, decode=decode)
    assert shapes == [((1, 12, 29), [1.0]), ((1, 13, 29), [1.0])]
    assert found.text == "SEA"  # what another decoder says is aligned all the same
    assert found.segments[0].confidence < 0.01
    check_times(found)


def test_beam_search(tmp_path):
    units = CharacterUnits()
    labels = speak("THE CAT SAT", units, pauses=[0, 20])
    path = write_labels(tmp_path / "a.wav", labels)
    recogniser = level_recogniser(units, sharpness=40.0)
    assert transcribe(recogniser, path, decode=make_beam_searcher(units, beam_size=4)) == (
        transcribe(recogniser, path)
    )


def test_a_text_with_more_labels_than_frames(tmp_path):
    """SentencePiece may write a text with more pieces than the decoder found."""
    path = write_labels(tmp_path / "a.wav", [2, 3, 2])
    decode = lambda log_probs, lengths: ["ALL BAD"]  # noqa: E731
    found = transcribe(level_recogniser(CharacterUnits()), path, decode=decode)
    assert [word.text for word in found.segments[0].words] == ["ALL", "BAD"]
    check_times(found)


def test_an_open_reader_is_read_and_left_open(tmp_path):
    path = write_labels(tmp_path / "a.wav", [0, 2, 0])
    recogniser = level_recogniser(CharacterUnits())
    with AudioReader(path) as reader:
        assert transcribe(recogniser, reader) == transcribe(recogniser, path)
        assert len(reader.read(0, 5)) == 5


def noise(path, duration_s, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wav = 0.1 * torch.randn(round(16000 * duration_s), generator=generator)
    soundfile.write(path, wav.numpy(), 16000)
    return path


def test_windows_give_the_words_of_a_single_pass(tiny_recogniser, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = noise(tmp_path / "a.wav", 5.03)
    # Random weights prefer one label: a larger head is less sure of it.
    with torch.no_grad():
        tiny_recogniser.head.weight.mul_(4)
    whole = transcribe(tiny_recogniser, path, window_s=30.0, max_segment_s=1.0)
    windows = transcribe(tiny_recogniser, path, window_s=1.5, max_segment_s=1.0)
    assert windows.text == whole.text
    assert len(whole.text) > 10
    for one, other in zip(whole.segments, windows.segments, strict=True):
        for word, same in zip(one.words, other.words, strict=True):
            assert word[:3] == same[:3]
            assert word.confidence == pytest.approx(same.confidence, rel=1e-2)
    check_times(whole)
    assert list((tmp_path / "temporary").glob("speechbrain_pom*")) == []


@pytest.mark.parametrize("num_samples", [1, 400, 640, 10079, 10080, 10081])
def test_the_last_word_ends_with_the_file(tiny_recogniser, num_samples, tmp_path):
    path = noise(tmp_path / "a.wav", num_samples / 16000)
    found = transcribe(
        tiny_recogniser, path, decode=lambda outputs, _: ["A" + " A" * (outputs.shape[1] // 3)]
    )
    check_times(found)


def test_bfloat16(tiny_recogniser, tmp_path):
    recogniser = tiny_recogniser.to(torch.bfloat16)
    path = noise(tmp_path / "a.wav", 2.5)
    for window_s in (1.0, 30.0):
        found = transcribe(recogniser, path, window_s=window_s)
        assert found.duration_s == 2.5


def test_what_cannot_be_transcribed(tiny_recogniser, tmp_path):
    with pytest.raises(UserError, match="the file is missing: restore it"):
        transcribe(tiny_recogniser, tmp_path / "none.wav")
    path = noise(tmp_path / "a.wav", 0.3)
    with pytest.raises(UserError, match=r"in training mode: call recogniser\.eval\(\)"):
        transcribe(tiny_recogniser.train(), path)
    torch.nn.init.constant_(tiny_recogniser.eval().head.bias, torch.nan)
    with pytest.raises(ValueError, match="the outputs to decode are NaN"):
        transcribe(tiny_recogniser, path)
