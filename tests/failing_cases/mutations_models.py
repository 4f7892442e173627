"""How masks, targets, features, figures and encoders behave today."""

import types

import torch
from behaviours import mutation, replace
from speechbrain.lobes.models.BESTRQ import compute_mask
from speechbrain.nnet.quantisers import RandomProjectionQuantizer

from speechbrain_pom.attention import masks as attention_masks
from speechbrain_pom.attention import patches
from speechbrain_pom.encoder import encoder, features
from speechbrain_pom.nnet import PolynomialMixer
from speechbrain_pom.objectives.bestrq import masks
from speechbrain_pom.training.sums import EpochSums

CHUNKS = "unit/training/test_chunks.py::"
FEATURES = "unit/encoder/test_features.py::"
HYPERMIXING = "unit/attention/test_hypermixing_refusal.py::"
MASKS = "unit/objectives/bestrq/test_masks.py::"
PADDING = "unit/attention/test_padding.py::"
TARGETS = "unit/objectives/bestrq/test_targets.py::"


@mutation(5, TARGETS + "test_codes_of_an_utterance_do_not_depend_on_its_partners")
def left_padding():
    """Padding on the left, by the longest partner, shifts the stacks of four frames."""

    def pad_to_multiple(x, multiple):
        missing = -x.shape[1] % multiple
        return torch.nn.functional.pad(x, [0, 0] * (x.dim() - 2) + [missing, 0])

    replace("encoder.lengths", "pad_to_multiple", lambda _: pad_to_multiple)


@mutation(5, TARGETS + "test_codes_do_not_depend_on_autocast_or_precision_of_products")
def targets_in_half_precision():
    """Under autocast SpeechBrain's quantizer computes the targets in half precision."""

    def nearest_codes(stacked, projection, codebook, max_elements=None):
        tables = types.SimpleNamespace(P=projection, CB=codebook)
        return RandomProjectionQuantizer.forward(tables, stacked)

    replace("objectives.bestrq.targets", "nearest_codes", lambda _: nearest_codes)


def one_mask(shape, num_frames, mask_prob, mask_length):
    """SpeechBrain's mask, the same for all utterances."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, compute_mask(shape, num_frames, mask_prob, mask_length)] = True
    return mask


@mutation(5, MASKS + "test_an_utterance_is_masked_alike_with_any_partners")
def one_mask_for_the_batch():
    """One mask for all utterances, drawn from the generators, bounded by the shortest."""

    def sample_masks(num_frames, ids, *, mask_prob, mask_length, **_):
        long_enough = [length for length in num_frames if length >= mask_length]
        shape = (len(ids), max(num_frames))
        return one_mask(shape, long_enough, mask_prob, mask_length)

    replace("objectives.bestrq.masks", "sample_masks", lambda _: sample_masks)


@mutation(5, MASKS + "test_every_masked_frame_is_predicted_for_drawn_masks")
def short_utterance_crashes():
    """An utterance of fewer frames than a mask crashes the run when its turn comes."""

    def sample_masks(num_frames, ids, *, mask_prob, mask_length, **_):
        return one_mask((len(ids), max(num_frames)), num_frames, mask_prob, mask_length)

    replace("objectives.bestrq.masks", "sample_masks", lambda _: sample_masks)


@mutation(
    5,
    MASKS + "test_options_that_cannot_work_are_refused",
    MASKS + "test_only_whole_blocks_of_valid_frames_are_masked",
)
def everything_is_masked():
    """`mask_prob` of 0.25 and more masks every frame without a word."""
    replace("objectives.bestrq.masks", "check_mask_options", lambda _: lambda *_, **__: None)
    draw = masks._draw_blocks

    def draw_blocks(num_frames, mask_prob, mask_length, bits):
        if num_frames < 2 * mask_length:
            return draw(num_frames, mask_prob, mask_length, bits)
        return one_mask((1, num_frames), [num_frames], mask_prob, mask_length)[0].numpy()

    masks._draw_blocks = draw_blocks


@mutation(5, MASKS + "test_predicted_positions_are_the_fully_masked_valid_blocks")
def visible_frames_are_predicted():
    """Positions are predicted of which some frames are visible, or padding."""

    def predicted_positions(mask, num_frames, stride=4):
        num_blocks = mask.shape[1] // stride
        return mask[:, : num_blocks * stride].unflatten(1, (num_blocks, stride)).any(dim=-1)

    replace("objectives.bestrq.masks", "predicted_positions", lambda _: predicted_positions)


@mutation(6, "unit/objectives/bestrq/test_statistics.py::test_a_loss_that_is_not_finite_is_shown")
def nan_is_left_out_of_the_average():
    """A loss that is NaN is left out of the average: the log shows 0.00."""
    add = EpochSums.add
    EpochSums.add = lambda self, **values: add(
        self,
        **{name: torch.as_tensor(each).nan_to_num(0.0, 0.0, 0.0) for name, each in values.items()},
    )


@mutation(
    9,
    FEATURES + "test_statistics_are_updated_in_training_until_the_epoch_and_never_after",
    slow=("recipes/test_ctc.py::test_the_encoder_trains_and_its_normalisation_stays",),
)
def statistics_updated_for_ever():
    """`update_until_epoch: 0` means for ever: fine-tuning goes on changing the statistics."""

    forward = features.FeatureExtractor.forward

    def always(self, wavs, num_samples, epoch=None, floor=None):
        return forward(self, wavs, num_samples, epoch=0, floor=floor)

    features.FeatureExtractor.forward = always


@mutation(9, FEATURES + "test_shapes_and_zeros_in_all_padding")
def padding_is_normalised_too():
    """Frames of padding are normalised like speech, and end up 22 deviations below it."""
    features.padding_mask = lambda num_frames, length: torch.zeros(
        len(num_frames), length, dtype=torch.bool
    )


@mutation(
    13, "unit/objectives/bestrq/test_collapse.py::test_features_that_are_not_normalised_are_noticed"
)
def collapse_is_not_seen():
    """Features that are not normalised give few codes, and nothing says so."""
    statistics = "objectives.bestrq.statistics"
    replace(statistics, "find_collapse", lambda _: lambda summary, num_codes: None)


@mutation(
    13,
    MASKS + "test_validation_masks_belong_to_the_utterance_in_both_scopes",
    "unit/objectives/bestrq/test_noise.py::test_validation_noise_is_a_function_of_seed_and_utterance",
    slow=("recipes/test_bestrq.py::test_metrics_of_pretraining",),
)
def validation_draws_anew():
    """Masks and noise of validation are drawn anew: the same weights have other figures."""

    def unseeded(sample):
        def sample_masks(*args, epoch, **options):
            if epoch is None:
                epoch = int(torch.randint(2**31, ()))
            return sample(*args, epoch=epoch, **options)

        return sample_masks

    replace("objectives.bestrq.masks", "sample_masks", unseeded)
    replace(
        "objectives.bestrq.noise",
        "sample_noise",
        lambda sample: lambda *args, seed=None, **options: sample(*args, seed=None, **options),
    )


@mutation(14, PADDING + "test_conformer")
def convolutions_read_the_padding():
    """SpeechBrain's convolutions read the frames of padding before the layer masks them."""
    patches.isolate_padding = lambda layer, **_: None


@mutation(14, PADDING + "test_conformer", PADDING + "test_mixer")
def mean_over_the_padded_length():
    """The published mixer takes its mean over the padded length."""
    forward = PolynomialMixer.forward
    PolynomialMixer.forward = lambda self, *args, key_padding_mask=None, **options: forward(
        self, *args, **options
    )


@mutation(
    14,
    HYPERMIXING + "test_mixed_encoders_refuse_causal_masks",
    HYPERMIXING + "test_alone_it_is_speechbrains_own_with_a_warning",
)
def hypermixing_sees_the_future():
    """`hypermixing` drops causal and chunk masks without a word."""
    patches._refuse_mask = lambda layer, args, kwargs: None
    attention_masks._warn_of_hypermixing = lambda masked: None


@mutation(14, CHUNKS + "test_encoders_that_would_not_stream_are_refused")
def any_model_is_trained_with_chunks():
    """SpeechBrain trains any model with dynamic chunks, also one that ignores the masks."""
    encoder.SpeechEncoder.obstacle_to_chunks = lambda self, left_context_chunks=None: None
