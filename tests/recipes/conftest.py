"""What the tests of the recipes share: their commands, a corpus, a pretrained encoder."""

import pytest

from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from tests.helpers import recipes as helpers


@pytest.fixture(scope="session")
def recipes(programs):
    """`tests.helpers.recipes`: commands of the recipes, and what they leave behind."""
    helpers.use(programs)
    return helpers


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Two minutes of synthetic speech in LibriSpeech's layout."""
    folder = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    return make_mini_corpus(folder, duration_min=2.0, show_progress=False)


@pytest.fixture(scope="session")
def wav2vec2(recipes, corpus, tmp_path_factory):
    """A run of train_wav2vec2.py of two epochs without interruption, and what it printed."""
    folder = tmp_path_factory.mktemp("pretrained") / "wav2vec2"
    return folder, recipes.train("wav2vec2", folder, data_folder=corpus, forked=False)


@pytest.fixture(scope="session")
def pretrained(recipes, corpus, tmp_path_factory):
    """A pretraining run of two epochs without interruption, and what it printed."""
    folder = tmp_path_factory.mktemp("pretrained") / "bestrq"
    return folder, recipes.train(
        "bestrq", folder, data_folder=corpus, tensorboard=True, forked=False
    )
