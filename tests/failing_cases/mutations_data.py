"""How labels, pretrained encoders, audio files and caches are treated today."""

import math
from pathlib import Path

import soundfile
import torch
from behaviours import mutation, replace
from speechbrain.dataio.dataio import load_pkl, read_audio
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.fetching import fetch

from speechbrain_pom.ctc import targets
from speechbrain_pom.data import chapters
from speechbrain_pom.data.audio.files import AudioFacts
from speechbrain_pom.encoder.features import FeatureExtractor
from speechbrain_pom.encoder.loading import MODEL_FILE
from speechbrain_pom.utils.errors import UserError

CHECK = "unit/data/test_check.py::"
CTC_TARGETS = "unit/ctc/test_targets.py::"
LOADING = "unit/encoder/test_loading.py::"
START = "unit/encoder/test_start.py::"
READING = "unit/training/test_data_reading.py::"


@mutation(7, CTC_TARGETS + "test_output_layer_of_another_size_is_refused")
def labels_beyond_the_output_layer():
    """Nobody compares labels and output layer: CTC reads and writes past its memory."""

    def without_outputs(check):
        return lambda units, texts, num_frames=None, num_outputs=None: check(
            units, texts, num_frames
        )

    replace("ctc.targets", "check_targets", without_outputs)


@mutation(
    7,
    CTC_TARGETS + "test_every_unencodable_transcript_is_named",
    CTC_TARGETS + "test_piece_unseen_in_training_is_found_in_another_split",
)
def characters_found_when_met():
    """A character that only the test set has crashes the run after all epochs."""
    targets._check_encodable = lambda units, texts: None


@mutation(
    8,
    LOADING + "test_every_mismatch_is_one_line",
    LOADING + "test_a_file_of_another_model",
)
def tensors_left_out_with_a_warning():
    """A file without a single matching tensor is trained with: there are only warnings."""

    def load_what_fits(module, state, what):
        own = module.state_dict()
        fitting = {key: own[key] for key in own.keys() & state.keys()}
        module.load_state_dict(fitting, strict=False)

    replace("encoder.weights", "strict_load", lambda _: load_what_fits)


@mutation(8, START + "test_a_wrong_path_is_never_looked_for_on_the_network")
def wrong_path_asks_a_hub():
    """A path that does not exist is looked for on a model hub."""

    def or_fetch(find):
        def find_saved(path, *args):
            return find(path, *args) if Path(path).exists() else fetch(MODEL_FILE, str(path))

        return find_saved

    replace("encoder.loading", "find_saved", or_fetch)


@mutation(
    8,
    START + "test_another_encoder_than_the_run_began_with",
    slow=("recipes/test_ctc.py::test_another_start_is_refused_in_an_old_folder",),
)
def changed_path_is_ignored():
    """In an old output folder another `pretrained` is ignored without a word."""

    def only_at_first(start):
        def start_encoder(encoder, pretrained, output_folder):
            if not any(Path(output_folder).glob("save/CKPT+*")):
                start(encoder, pretrained, output_folder)

        return start_encoder

    replace("encoder.start", "start_encoder", only_at_first)


@mutation(9, LOADING + "test_statistics_that_are_missing")
def empty_statistics():
    """Fine-tuning begins a global normalisation without statistics after one per sentence."""
    FeatureExtractor.load_statistics = lambda self, path, end_of_epoch=False: None


@mutation(
    10,
    CHECK + "test_every_kind_of_problem_in_one_pass",
    CHECK + "test_limit",
    "unit/data/test_bad_utterances.py::test_bad_utterance",
)
def headers_are_believed():
    """Only durations are taken from headers: 8 kHz, stereo and truncated files pass."""

    def inspect_audio(path, check_data="headers"):
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError:
            return AudioFacts(0, 0, 0, {})
        return AudioFacts(info.frames, info.samplerate, info.channels, {})

    replace("data.audio.files", "inspect_audio", lambda _: inspect_audio)
    replace("data.audio.files", "format_problems", lambda _: lambda facts: {})


@mutation(10, "unit/data/test_bad_utterances.py::test_missing_transcript_file_names_each_utterance")
def missing_transcript_is_a_lookup_error():
    """A missing transcript is a bare error of a look-up."""
    chapters._transcript_problems = lambda found, absent: {}


@mutation(
    10,
    READING + "test_a_truncated_file_names_itself",
    READING + "test_a_file_that_is_gone_names_itself",
)
def half_files_are_read_silently():
    """Half a WAV file is read without a word, and a missing one has no name but its path."""
    replace(
        "training.dataset",
        "read_utterance",
        lambda _: lambda utterance, path, num_samples: read_audio(path),
    )


@mutation(10, READING + "test_durations_outside_the_range_are_left_out")
def nothing_left_is_no_error():
    """A run from which every utterance is filtered out ends with code 0 and checkpoints."""

    def or_empty(make):
        def audio_dataset(manifest, data_folder, **limits):
            try:
                return make(manifest, data_folder, **limits)
            except UserError:
                dataset = DynamicItemDataset.from_csv(manifest, {"data_root": str(data_folder)})
                return dataset.filtered_sorted(key_min_value={"duration": math.inf})

        return audio_dataset

    replace("training.dataset", "audio_dataset", or_empty)


@mutation(15, LOADING + "test_a_malicious_pickle")
def pickles_in_checkpoints_are_trusted():
    """Loading a checkpoint runs the code in its pickle, as `torch.load` did before 2.6."""
    load = torch.load
    torch.load = lambda *args, **options: load(*args, **{**options, "weights_only": False})


@mutation(15, "unit/data/test_librispeech.py::test_code_in_a_pickle_cache_is_never_run")
def pickle_caches_are_loaded():
    """`opt_librispeech_prepare.pkl` beside the manifests is loaded, with any code in it."""

    def with_cache(prepare):
        def prepare_librispeech(data_folder, splits, manifest_folder, **options):
            cache = Path(manifest_folder) / "opt_librispeech_prepare.pkl"
            if cache.is_file():
                load_pkl(str(cache))
            return prepare(data_folder, splits, manifest_folder, **options)

        return prepare_librispeech

    replace("data.librispeech", "prepare_librispeech", with_cache)
