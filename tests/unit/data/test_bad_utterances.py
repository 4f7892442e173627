"""Bad utterances: each kind of problem by its message, and what happens to them."""

import os

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataio import read_audio

from speechbrain_pom.data.manifest import read_manifest


def resample(corpus):
    corpus.write_audio(corpus.audio(), 800, rate=8000)


def make_stereo(corpus):
    corpus.write_audio(corpus.audio(), channels=2)


def break_audio(corpus):
    corpus.audio().write_bytes(corpus.audio().read_bytes()[:10])


def truncate(corpus):
    corpus.audio().write_bytes(corpus.audio().read_bytes()[:-1])


def as_wav(corpus):
    """The same audio as bytes of a WAV file, whose header has 44 bytes."""
    path = corpus.audio().with_suffix(".wav")
    corpus.write_audio(path)
    content = bytearray(path.read_bytes())
    path.unlink()
    return content


def truncate_wav(corpus):
    corpus.audio().write_bytes(as_wav(corpus)[:2000])


def streamed_wav(corpus):
    """As a program writes it that cannot go back to the header."""
    content = as_wav(corpus)
    content[40:44] = b"\xff" * 4
    corpus.audio().write_bytes(content)


def truncate_ogg(corpus):
    soundfile.write(corpus.audio(), np.zeros(160000), 16000, format="OGG")
    content = corpus.audio().read_bytes()
    corpus.audio().write_bytes(content[: content.rfind(b"OggS")])


def empty_file(corpus):
    corpus.audio().write_bytes(b"")


def no_samples(corpus):
    soundfile.write(corpus.audio(), np.zeros(0), 16000, format="WAV")


def no_length(corpus):
    header = bytearray(corpus.audio().read_bytes())
    header[21] &= 0xF0  # STREAMINFO: the 36 bits of the total number of samples
    header[22:26] = bytes(4)
    corpus.audio().write_bytes(header)


def dangling_link(corpus):
    corpus.audio().unlink()
    corpus.audio().symlink_to("gone.flac")


def change_lines(corpus, change):
    lines = corpus.transcripts.read_text().splitlines()
    corpus.transcripts.write_text("\n".join(change(lines)))


def missing_line(corpus):
    change_lines(corpus, lambda lines: lines[1:])


def empty_transcript(corpus):
    change_lines(corpus, lambda lines: ["84-121123-0000 ", *lines[1:]])


def two_transcripts(corpus):
    change_lines(corpus, lambda lines: [lines[0], *lines])


def placeholder(corpus):
    change_lines(corpus, lambda lines: ["84-121123-0000 COSTS $5", *lines[1:]])


def missing_audio(corpus):
    corpus.audio().unlink()


NO_LENGTH = "its header does not say how long it is"
TRANSCRIPTS = "dev-clean/84/121123/84-121123.trans.txt"
ADVICE = "add its words, or keep line and audio elsewhere"
PLACEHOLDER = "a placeholder in manifests"
CUT = "truncated or damaged"
LOST = "Error : flac decoder lost sync"
BAD = [
    (resample, "sample rate", "sample rate 8000 Hz is not 16000 Hz: resample it"),
    (make_stereo, "channels", "has 2 channels: mix it down to mono"),
    (break_audio, "unreadable", "unreadable audio (Format not recognised): restore it"),
    (truncate, CUT, f"{CUT}: decoding ends after 0 of 1600 samples ({LOST}): restore it"),
    (truncate_wav, CUT, "truncated: 1956 of 3200 bytes of samples are there: restore it"),
    (truncate_ogg, CUT, "truncated: its last Ogg page is missing: restore it"),
    (empty_file, "empty", "the file is empty (0 bytes): restore or remove it"),
    (no_samples, "empty", "holds no samples: restore or remove it"),
    (no_length, "unknown length", f"{NO_LENGTH}: encode it again"),
    (streamed_wav, "unknown length", f"{NO_LENGTH}: encode it again"),
    (dangling_link, "missing file", "the file is missing: restore it"),
    (missing_line, "missing transcript", f"no transcript: add its line to {TRANSCRIPTS}"),
    (empty_transcript, "empty transcript", f"empty transcript: {ADVICE}"),
    (two_transcripts, "several transcripts", "2 transcripts in its chapter: keep one line"),
    (placeholder, "placeholder", f"transcript 'COSTS $5' holds '$', {PLACEHOLDER}: write it out"),
    (missing_audio, "missing file", "has a transcript but no audio: restore it"),
]


@pytest.mark.parametrize(("spoil", "kind", "problem"), BAD, ids=[row[0].__name__ for row in BAD])
def test_bad_utterance(corpus, spoil, kind, problem):
    spoil(corpus)
    report = corpus.out / "dev-clean.problems.json"
    headline, item = corpus.refusal().split(" | ")
    assert headline.startswith("dev-clean: 2 utterances (0.000 h, 1 speakers) are good, 1 (0.00")
    assert headline.endswith(
        "are bad: more than max_bad_share=0 allows; fix them or set max_bad_share "
        f"to 0.3334 to leave them out; all are listed in '{report}'"
    )
    file = "dev-clean/84/121123/84-121123-0000.flac"
    assert item == f"84-121123-0000 ({file}): {problem}"
    assert corpus.problems()["bad"][0]["problems"] == {kind: problem}
    assert not (corpus.out / "dev-clean.csv").exists()

    kept = read_manifest(corpus.prepare(max_bad_share=0.3334)["dev-clean"])
    assert list(kept) == ["84-121123-0001", "84-121123-0002"]


def damage(corpus):
    """One bit in the middle, which leaves header and end as they were."""
    content = bytearray(corpus.audio().read_bytes())
    content[len(content) // 2] ^= 1
    corpus.audio().write_bytes(content)


def silence(corpus):
    soundfile.write(corpus.audio(), np.zeros(1600), 16000)


def not_a_number(corpus):
    samples = np.full(1600, 0.1)
    samples[700] = np.nan
    soundfile.write(corpus.audio(), samples, 16000, subtype="FLOAT", format="WAV")


@pytest.mark.parametrize(
    ("spoil", "kind", "problem"),
    [
        (damage, CUT, "truncated or damaged: decoding ends after 0 of 5000 samples"),
        (silence, "silence", "all its samples are zero: restore or remove it"),
        (not_a_number, "non-finite", "holds samples that are NaN or infinite: encode it again"),
    ],
)
def test_what_only_a_full_check_finds(corpus, spoil, kind, problem):
    corpus.write_audio(corpus.audio(), 5000)
    spoil(corpus)
    corpus.prepare()
    expected = f"84-121123-0000 (dev-clean/84/121123/84-121123-0000.flac): {problem}"
    assert corpus.refusal(check_data="decode").split(" | ")[1].startswith(expected)
    assert list(corpus.problems()["bad"][0]["problems"]) == [kind]
    kept = corpus.prepare(check_data="decode", max_bad_share=0.34)["dev-clean"]
    assert len(read_manifest(kept)) == 2


def test_speechbrain_reads_half_a_wav_without_a_word(corpus):
    """What `truncate_wav` is for: only the header tells."""
    truncate_wav(corpus)
    assert len(read_audio(str(corpus.audio()))) == 978


def test_missing_transcript_file_names_each_utterance(corpus):
    corpus.transcripts.unlink()
    headline, *items = corpus.refusal().split(" | ")
    assert "; fix them; all are listed" in headline  # no share below 1 would leave anything
    name = "dev-clean/84/121123/84-121123.trans.txt"
    assert [item.split(": ", 1)[1] for item in items] == [
        f"no transcript: {name} is missing, restore it"
    ] * 3
    assert len(read_manifest(corpus.prepare(need_transcripts=False)["dev-clean"])) == 3


def test_every_problem_of_every_split_at_once(corpus):
    corpus.write_audio(corpus.audio(), 800, rate=8000, channels=2)
    missing_line(corpus)
    (corpus.root / "train-other-500/20/205/20-205.trans.txt").unlink()
    parts = corpus.refusal(["dev-clean", "train-clean-100", "train-other-500"]).split(" | ")
    names = [part.split()[0] for part in parts]
    assert names == ["dev-clean:", "84-121123-0000", "train-other-500:", "20-205-0000"]
    for problem in ("8000 Hz", "2 channels", "add its line"):
        assert problem in parts[1]
    assert (corpus.out / "train-clean-100.csv").exists()


def test_ten_are_shown_and_all_are_written(corpus):
    folder = corpus.add_chapter("dev-clean", 84, 9, lengths=[3600] * 12)
    for path in folder.glob("*.flac"):
        corpus.write_audio(path, 3600, rate=8000)
    parts = corpus.refusal().split(" | ")
    assert len(parts) == 12
    assert parts[-1] == "and 2 more"
    report = corpus.problems()
    assert [item["utterance"] for item in report["bad"]] == [f"84-9-{i:04d}" for i in range(12)]
    assert report["dropped_utterances"] == 12
    assert report["kept_utterances"] == 3
    assert report["dropped_h"] == pytest.approx(12 * 3600 / 8000 / 3600)
    assert report["kept_h"] == pytest.approx((1600 + 500 + 63) / 16000 / 3600)


def test_same_id_twice(corpus):
    folder = corpus.add_chapter("dev-clean", 85, 1, lengths=(1600,))
    (folder / "85-1-0000.flac").rename(folder / "84-121123-0000.flac")
    (folder / "85-1.trans.txt").write_text("84-121123-0000 TWICE\n")
    assert corpus.refusal().split(" | ")[1] == (
        "84-121123-0000 (dev-clean/85/1/84-121123-0000.flac): "
        "has the same ID as dev-clean/84/121123/84-121123-0000.flac: rename one"
    )


@pytest.mark.parametrize("name", ["a$b.flac", "a\nb.flac", os.fsdecode(b"a\xff.flac")])
def test_paths_that_a_manifest_cannot_hold(corpus, name):
    corpus.audio(2).rename(corpus.audio().with_name(name))
    message = corpus.refusal(need_transcripts=False)
    assert "its path holds '$' or an unprintable character: rename it" in message
    assert len(message.splitlines()) == 1
    assert message.encode("utf-8")  # it can be printed
    assert corpus.problems()["bad"][0]["utterance"] == name.removesuffix(".flac")


def test_a_share_may_be_left_out_and_is_never_silent(corpus, caplog):
    resample(corpus)
    corpus.prepare(max_bad_share=0.5)
    expected = (
        "dev-clean: 2 utterances (0.000 h, 1 speakers) are good, 1 (0.000 h) are bad and left out, "
        "see 'dev-clean.problems.json'; "
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert expected in caplog.text
    before = corpus.stamps()
    corpus.prepare(max_bad_share=0.5)  # kept, and said again
    assert corpus.stamps() == before
    assert caplog.text.count(expected) == 2
    assert "max_bad_share=0 allows" in corpus.refusal()  # a stricter call does not reuse it

    corpus.write_audio(corpus.audio())
    corpus.prepare()
    assert not (corpus.out / "dev-clean.problems.json").exists()
