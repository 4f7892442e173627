"""Small corpora in LibriSpeech's layout, for the tests of data preparation."""

import json

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.librispeech import prepare_librispeech


class Corpus:
    """A folder that holds splits, and manifests made from it."""

    def __init__(self, root, out=None):
        self.root = root
        self.out = out or root.parent / "csv"

    @staticmethod
    def write_audio(path, num_samples=1600, rate=16000, channels=1, subtype="PCM_16"):
        """Noise that depends on its length."""
        rng = np.random.default_rng(num_samples)
        soundfile.write(path, 0.1 * rng.standard_normal((num_samples, channels)), rate, subtype)

    def add_chapter(self, split, speaker, chapter, lengths=(1600, 500, 63)):
        """Writes one chapter; returns its folder."""
        folder = self.root / split / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        ids = [f"{speaker}-{chapter}-{index:04d}" for index in range(len(lengths))]
        for utterance, num_samples in zip(ids, lengths, strict=True):
            self.write_audio(folder / f"{utterance}.flac", num_samples)
        lines = [f"{utterance} WORDS OF {index}\n" for index, utterance in enumerate(ids)]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
        return folder

    def audio(self, index=0):
        return self.root / f"dev-clean/84/121123/84-121123-{index:04d}.flac"

    @property
    def transcripts(self):
        return self.root / "dev-clean/84/121123/84-121123.trans.txt"

    def prepare(self, splits=("dev-clean",), out=None, **options):
        options = {"show_progress": False, **options}
        return prepare_librispeech(self.root, list(splits), out or self.out, **options)

    def refusal(self, *arguments, **options):
        """The message with which preparation refuses."""
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is what tests look at)
            self.prepare(*arguments, **options)
        return str(caught.value)

    def problems(self, split="dev-clean"):
        return json.loads((self.out / f"{split}.problems.json").read_text())

    def stamps(self):
        """What changes when a manifest or record is written."""
        files = [(path.name, path.stat()) for path in self.out.iterdir()]
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files}


@pytest.fixture
def new_corpus():
    return Corpus


@pytest.fixture
def corpus(tmp_path):
    """Three splits, of which train-clean-100 has speakers 19 (two chapters) and 103."""
    corpus = Corpus(tmp_path / "LibriSpeech")
    for speaker, chapter in ((103, 1240), (19, 198), (19, 227)):
        corpus.add_chapter("train-clean-100", speaker, chapter)
    corpus.add_chapter("train-other-500", 20, 205, lengths=(16000,))
    corpus.add_chapter("dev-clean", 84, 121123)
    return corpus
