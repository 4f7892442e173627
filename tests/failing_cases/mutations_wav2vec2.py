"""How SpeechBrain's wav2vec 2.0, and the published recipe on it, behave today."""

import numpy as np
import torch
import torch.nn.functional as F
from behaviours import mutation, replace
from speechbrain.lobes.models import wav2vec
from speechbrain.nnet.losses import ContrastiveLoss
from torch import nn

from speechbrain_pom.attention import calls
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.encoder.lengths import padding_mask
from speechbrain_pom.nnet import SummaryMixing
from speechbrain_pom.objectives.wav2vec2 import GumbelQuantizer, Wav2Vec2, masks
from speechbrain_pom.objectives.wav2vec2.contrastive import Contrast

FOLDER = "unit/objectives/wav2vec2/"
CONTRASTIVE = FOLDER + "test_contrastive.py::"
FRONT_END = "unit/encoder/test_valid_convolutions.py::"
MASKS = FOLDER + "test_masks.py::"
NEGATIVES = FOLDER + "test_negatives.py::"
OBJECTIVE = FOLDER + "test_objective.py::"
STATISTICS = FOLDER + "test_statistics.py::"


@mutation(5, NEGATIVES + "test_in_a_batch_they_stay_in_their_utterance")
def negatives_of_the_utterance_before():
    """Negatives of utterance b are shifted by b frames: into the one before, and onto the frame."""

    def shifted(find):
        def find_masked(*args, **options):
            found = find(*args, **options)
            back = torch.arange(len(found.counts)).view(-1, 1, 1)
            moved = (found.negatives - back).clamp(min=0).where(found.negatives >= 0, -1)
            return found._replace(negatives=moved)

        return find_masked

    replace("objectives.wav2vec2.batch", "find_masked", shifted)


@mutation(5, NEGATIVES + "test_a_single_masked_frame_has_none")
def one_masked_frame_crashes():
    """An utterance with a single masked frame ends the run with a RuntimeError of randint."""

    def sample_negatives(num_masked, num_negatives, **_):
        numbers = torch.arange(1.0, 1 + num_masked).view(1, -1, 1)
        return wav2vec.sample_negatives(numbers, num_negatives)[..., 0].T.numpy()

    replace("objectives.wav2vec2.negatives", "sample_negatives", lambda _: sample_negatives)


@mutation(
    5,
    MASKS + "test_an_utterance_is_masked_alike_with_any_partners",
    OBJECTIVE + "test_it_is_a_function_of_the_utterances",
)
def masks_bounded_by_the_shortest_partner():
    """All utterances of a batch have as many masked frames as the shortest one can have."""

    def sample(original):
        return lambda *args, scope, **options: original(*args, scope="batch", **options)

    replace("objectives.wav2vec2.masks", "sample_masks", sample)


@mutation(
    3,
    MASKS + "test_what_masks_are_functions_of",
    OBJECTIVE + "test_training_is_new_in_each_epoch_and_the_same_when_repeated",
)
def masks_drawn_by_the_loader():
    """Masks come from the generators of the loader's workers: a resumed run has others."""

    def sample(original):
        def sample_masks(*args, seed, **options):
            return original(*args, seed=np.random.default_rng().integers(2**62).item(), **options)

        return sample_masks

    replace("objectives.wav2vec2.masks", "sample_masks", sample)


@mutation(5, MASKS + "test_every_length_that_can_be_masked_is")
def short_utterances_crash_the_masks():
    """Utterances of up to a second end the run where a mask is drawn."""
    masks._draw_spans = lambda num_frames, number, mask_length, bits: wav2vec.compute_mask(
        (1, num_frames), [num_frames], 0.65, mask_length
    )[0]


@mutation(5, MASKS + "test_every_frame_is_masked_alike")
def last_start_is_never_drawn():
    """The last span that fits is never drawn: the last frame is masked half as often as others."""

    def draw_spans(num_frames, number, mask_length, bits):
        mask = np.zeros(num_frames, dtype=bool)
        starts = masks.permutation(bits, num_frames - mask_length)[:number]
        mask[starts[:, None] + np.arange(mask_length)] = True
        free = np.flatnonzero(~mask)
        missing = number * mask_length - mask.sum()
        mask[free[masks.permutation(bits, len(free))[:missing]]] = True
        return mask

    masks._draw_spans = draw_spans


@mutation(9, FRONT_END + "test_front_end_frames_of_an_utterance_alone_and_in_a_batch")
def features_normalised_with_their_padding():
    """The features are normalised once more, over the whole batch's length with its padding."""
    forward = ValidConvolutions.forward

    def normalising(self, feats, num_features):
        padding = padding_mask(num_features, feats.shape[1]).unsqueeze(-1)
        feats = feats.masked_fill(padding, -8.0)  # log-mels of silence
        return forward(self, F.layer_norm(feats, feats.shape[1:]), num_features)

    ValidConvolutions.forward = normalising


@mutation(5, OBJECTIVE + "test_it_is_a_function_of_the_utterances")
def lengths_from_rounded_shares():
    """The frames of an utterance are counted from its relative length: often one too many."""
    count = ValidConvolutions.num_frames

    def num_frames(self, num_features):
        if not isinstance(num_features, torch.Tensor):
            return count(self, num_features)
        longest = num_features.max()
        return (num_features / longest * count(self, longest)).round().long()

    ValidConvolutions.num_frames = num_frames


@mutation(
    14,
    "unit/nnet/test_summary_mixing.py::test_with_norms_too",
    "unit/nnet/test_summary_mixing.py::test_output_and_all_gradients_equal_the_published_code",
)
def padding_mask_the_other_way_round():
    """The published branch hands SummaryMixing a mask that says the opposite of what it reads."""
    forward = SummaryMixing.forward

    def inverted(self, *args, key_padding_mask=None, **options):
        mask = None if key_padding_mask is None else ~key_padding_mask
        return forward(self, *args, key_padding_mask=mask, **options)

    SummaryMixing.forward = inverted


@mutation(3, OBJECTIVE + "test_the_temperature_is_a_function_of_the_optimizer_step")
def temperature_starts_anew():
    """The temperature of the noise is no state: after resuming it is that of the start."""
    Wav2Vec2.gumbel_temperature = lambda self, optimizer_step: self.temperatures[0]


@mutation(
    13,
    STATISTICS + "test_all_targets_equal_warn",
    STATISTICS + "test_one_group_that_collapses_warns",
)
def equal_targets_look_perfect():
    """If all targets are equal, the loss is 0 and the accuracy 100 %, without a word."""
    replace("objectives.wav2vec2.statistics", "find_collapse", lambda _: lambda *_, **__: None)


@mutation(
    13, slow=(FOLDER + "test_processes.py::test_the_average_gradient_is_that_of_the_whole_batch",)
)
def diversity_of_each_process():
    """The use of the codes is that of one process' batch: small batches are punished."""

    def alone(original):
        return lambda soft, num_frames, together=True: original(soft, num_frames, False)

    replace("objectives.wav2vec2.processes", "shares_of_processes", alone)


@mutation(13, OBJECTIVE + "test_validation_is_a_function_of_the_weights")
def wav2vec2_validation_draws_anew():
    """Masks and negatives of validation are random: the same weights have other losses."""

    def unseeded(original):
        def find_masked(*args, epoch, **options):
            epoch = int(torch.randint(2**31, ())) if epoch is None else epoch
            return original(*args, epoch=epoch, **options)

        return find_masked

    replace("objectives.wav2vec2.batch", "find_masked", unseeded)


@mutation(13, STATISTICS + "test_batches_do_not_matter")
def padding_counts_as_unmasked():
    """The share of masked frames is one of all frames of the batch, padding included."""
    outcome = Wav2Vec2._outcome

    def counting(self, found, quantized, soft, diversity, masked, num_frames, temperature):
        num_frames = torch.full_like(num_frames, masked.mask.shape[1])
        return outcome(self, found, quantized, soft, diversity, masked, num_frames, temperature)

    Wav2Vec2._outcome = counting


@mutation(13, CONTRASTIVE + "test_memory_is_far_below_that_of_a_tensor_of_negatives")
def a_tensor_of_negatives():
    """The negatives of all masked frames are a tensor: 1.1 GiB for six minutes of audio."""

    def contrast(x, y, codes, negatives, temperature, num_frames):
        rows = torch.arange(len(y)).view(-1, 1, 1)
        drawn = y[rows, negatives].permute(2, 0, 1, 3)
        loss, accuracy = ContrastiveLoss(temperature)(x, y, drawn)
        return Contrast(loss, accuracy * num_frames, None)

    replace("objectives.wav2vec2.contrastive", "contrast", lambda _: contrast)


@mutation(
    3,
    "unit/attention/test_layerdrop.py::test_every_layer_has_a_hidden_state_and_a_gradient",
    OBJECTIVE + "test_all_that_is_trained_has_a_gradient",
)
def dropped_layers_have_no_state():
    """A dropped layer is missing among the hidden states, and its weights have no gradient."""

    def encode(transformer, frames, relative, hidden_states=False, mask=None, mask_vector=None):
        view = calls._view(transformer)
        view.encoder = calls._view(transformer.encoder)
        view.encoder.output_hidden_states = view.output_hidden_states = hidden_states
        if mask is not None:
            project = calls._masked(transformer.custom_src_module, mask, mask_vector)
            view = calls.InCall(view, custom_src_module=project)
        return type(transformer).encode(view, frames, relative)

    replace("attention.calls", "encode", lambda _: encode)


@mutation(8, FOLDER + "test_golden.py::test_quantizer")
def a_parameter_that_nothing_uses():
    """The quantizer has a parameter `max_ent`, which nothing uses and checkpoints hold."""
    init = GumbelQuantizer.__init__

    def with_one_more(self, *args, **options):
        init(self, *args, **options)
        self.max_ent = nn.Parameter(torch.zeros(()), requires_grad=False)

    GumbelQuantizer.__init__ = with_one_more


@mutation(3, OBJECTIVE + "test_it_is_a_function_of_the_utterances")
def noise_of_the_generators():
    """Gumbel noise comes from the process' generator: an utterance's depends on its batch."""

    def sample(_):
        def sample_gumbel(num_frames, ids, size, *, device="cpu", **__):
            return -torch.empty(sum(num_frames), *size, device=device).exponential_().log()

        return sample_gumbel

    replace("objectives.wav2vec2.quantizer", "sample_gumbel", sample)
