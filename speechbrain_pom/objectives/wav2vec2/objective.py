"""wav2vec 2.0 as an objective: encoder and quantizer in, loss and statistics out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from speechbrain_pom.objectives.objective import Draw, Objective, Outcome
from speechbrain_pom.objectives.wav2vec2.batch import MaskedFrames, MaskVector, find_masked
from speechbrain_pom.objectives.wav2vec2.contrastive import Contrast, contrast
from speechbrain_pom.objectives.wav2vec2.masks import (
    check_mask_options,
    sample_masks,
    why_unmaskable,
)
from speechbrain_pom.objectives.wav2vec2.options import (
    check_choice,
    check_diversity_weight,
    check_num_negatives,
    check_positive,
)
from speechbrain_pom.objectives.wav2vec2.processes import shares_of_processes
from speechbrain_pom.objectives.wav2vec2.quantizer import (
    Quantized,
    diversity_of,
    sample_gumbel,
)
from speechbrain_pom.objectives.wav2vec2.statistics import find_collapse, metrics_of, summarise

REDUCTIONS = ("sum", "mean")
# Statistics are multiples of its inverse, so that sums of float64 are exact in any order: a run of
# several processes that is resumed adds them up in another one.
STEPS_OF_SUMS = 2**20


class Wav2Vec2(Objective):
    """Tell the quantized front-end frame behind each masked frame from those of other ones.

    As in SummaryMixing wav2vec 2.0 (arXiv 2407.13377, after 2006.11477): masks come after the
    front end and the input projection, a learnt vector takes the place of masked frames, and the
    targets are learnt by a quantizer of the front end's output. Equations, and the differences to
    published code: README.md in this folder.

    With `reduction: sum`, the published way, the minimised loss is the sum over the masked frames
    of a micro-batch; accumulation divides it by the number of micro-batches, and several processes
    average their gradients. A bound of 100 on the gradient norm means what it meant there. With
    "mean" each micro-batch weighs the same, and the bound has to be chosen anew (the gradient is
    smaller by the number of masked frames). Logged losses are per masked frame in both.

    Arguments
    ---------
    encoder : SpeechEncoder
        Its front end makes the frames that are quantized, of any kind.
    quantizer : GumbelQuantizer
        Of the width of these; its `output_size` is that of the predictions too.
    mask_prob : float
        Share of the frames in masks, were there no overlaps.
    mask_length : int
        Encoder frames in a mask.
    mask_scope : str
        "utterance": each has its own number of masks; "batch": all have that of the shortest, as
        published.
    num_negatives : int
        Drawn for each masked frame among the others of its utterance.
    contrastive_temperature : float
        What cosine similarities are divided by.
    diversity_weight : float
        Of the diversity loss, for each masked frame.
    diversity_scope : str
        "processes": the use of the codes is that of the micro-batches of all processes together;
        "process": of each one alone, as published, which punishes small batches.
    gumbel_temperature_start, gumbel_temperature_decay, gumbel_temperature_floor : float
        The temperature of the noise after n optimizer steps is max(start * decay ** n, floor).
    reduction : str
        "sum" or "mean" over the masked frames of a micro-batch.

    Raises
    ------
    UserError
        For options that cannot work.

    Example
    -------
    This section of an hparams file is the published one; the rest is as in hparams/pom.yaml:

    >>> from hyperpyyaml import load_hyperpyyaml
    >>> hparams = load_hyperpyyaml('''
    ... d_model: 32 # published: 768
    ... num_encoder_layers: 1 # published: 12
    ... d_ffn: 64 # published: 3072
    ... nhead: 8
    ... n_mels: 80
    ... attention_type: SummaryMixing
    ... activation: !name:speechbrain.nnet.activations.Swish
    ...
    ... encoder: !new:speechbrain_pom.encoder.SpeechEncoder
    ...     compute_features: !new:speechbrain.lobes.features.Fbank
    ...         n_mels: !ref <n_mels>
    ...         n_fft: 400
    ...     normalize: !new:speechbrain.processing.features.InputNormalization
    ...         norm_type: sentence
    ...     front_end: !new:speechbrain_pom.encoder.front_ends.ValidConvolutions
    ...         input_size: !ref <n_mels>
    ...         channels: [512, 512]
    ...         kernel_sizes: [3, 3]
    ...         strides: [2, 1]
    ...     transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    ...         tgt_vocab: 1
    ...         input_size: 512
    ...         d_model: !ref <d_model>
    ...         nhead: !ref <nhead>
    ...         num_encoder_layers: !ref <num_encoder_layers>
    ...         num_decoder_layers: 0
    ...         d_ffn: !ref <d_ffn>
    ...         dropout: 0.1
    ...         activation: !ref <activation>
    ...         conformer_activation: !ref <activation>
    ...         encoder_module: conformer
    ...         attention_type: !ref <attention_type>
    ...         positional_encoding: fixed_abs_sine
    ...         normalize_before: True
    ...         causal: False
    ...         layerdrop_prob: 0.05
    ...
    ... quantizer: !new:speechbrain_pom.objectives.wav2vec2.GumbelQuantizer
    ...     input_size: 512
    ...     num_codes: 320
    ...     groups: 2
    ...     code_size: 128
    ...     output_size: 256
    ...
    ... objective: !new:speechbrain_pom.objectives.wav2vec2.Wav2Vec2
    ...     encoder: !ref <encoder>
    ...     quantizer: !ref <quantizer>
    ...     mask_prob: 0.65
    ...     mask_length: 10
    ...     mask_scope: utterance
    ...     num_negatives: 100
    ...     contrastive_temperature: 0.1
    ...     diversity_weight: 0.1
    ...     gumbel_temperature_start: 2.0
    ...     gumbel_temperature_decay: 0.999995
    ...     gumbel_temperature_floor: 0.25
    ... ''')
    >>> objective = hparams["objective"]
    >>> wavs, num_samples = torch.randn(2, 32000), torch.tensor([32000, 24000])
    >>> draw = Draw(seed=1000, epoch=1, step=1, optimizer_step=0)
    >>> outcome = objective(wavs, num_samples, ["a", "b"], draw)
    >>> outcome.loss.backward()
    >>> sorted(objective.recoverables()), outcome.weight
    (['linear', 'mask_vector', 'quantizer'], 1)
    """

    name = "wav2vec 2.0"
    metrics = metrics_of(2)
    takes_chunks = True

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: nn.Module,
        mask_prob: float = 0.65,
        mask_length: int = 10,
        mask_scope: str = "utterance",
        num_negatives: int = 100,
        contrastive_temperature: float = 0.1,
        diversity_weight: float = 0.1,
        diversity_scope: str = "processes",
        gumbel_temperature_start: float = 2.0,
        gumbel_temperature_decay: float = 0.999995,
        gumbel_temperature_floor: float = 0.25,
        reduction: str = "sum",
    ) -> None:
        super().__init__(encoder)
        check_mask_options(mask_prob, mask_length, mask_scope)
        check_choice("diversity_scope", diversity_scope, ("processes", "process"))
        check_choice("reduction", reduction, REDUCTIONS)
        check_positive(
            contrastive_temperature=contrastive_temperature,
            gumbel_temperature_start=gumbel_temperature_start,
            gumbel_temperature_decay=gumbel_temperature_decay,
            gumbel_temperature_floor=gumbel_temperature_floor,
        )
        check_num_negatives(num_negatives)
        check_diversity_weight(diversity_weight)
        self.metrics = metrics_of(quantizer.groups)
        self.quantizer = quantizer
        self.linear = nn.Linear(encoder.d_model, quantizer.output_size)
        self.mask_vector = MaskVector(encoder.d_model)
        self.mask_options = {"mask_prob": mask_prob, "mask_length": mask_length}
        self.mask_options["scope"] = mask_scope
        self.num_negatives = num_negatives
        self.contrastive_temperature = contrastive_temperature
        self.diversity_weight = diversity_weight
        self.diversity_scope = diversity_scope
        self.temperatures = (
            gumbel_temperature_start,
            gumbel_temperature_decay,
            gumbel_temperature_floor,
        )
        self.reduction = reduction

    def gumbel_temperature(self, optimizer_step: int) -> float:
        """The temperature of the noise after a number of optimizer steps."""
        start, decay, floor = self.temperatures
        return max(start * decay**optimizer_step, floor)

    def forward(
        self, wavs: torch.Tensor, num_samples: torch.Tensor, ids: Sequence[str], draw: Draw
    ) -> Outcome:
        """The loss over the masked frames of a batch; see `Objective.forward`."""
        feats, num_feats = self.encoder.features(wavs, num_samples, draw.epoch)
        latents = self.encoder.embed(feats, num_feats)
        latents = latents.flatten(2)  # (B, T, F), also of a front end in two dimensions
        num_frames = self.encoder.num_frames(num_samples)
        masked = self._sample(num_frames, ids, draw, latents)
        context = self.encoder.contextualise(
            latents,
            num_frames,
            mask=masked.mask,
            mask_vector=self.mask_vector(),
            chunks=draw.chunks,
        )
        noise, temperature = None, 0.0
        if draw.training:
            temperature = self.gumbel_temperature(draw.optimizer_step)
            size = self.quantizer.groups, self.quantizer.num_codes
            noise = sample_gumbel(
                masked.counts,
                ids,
                size,
                seed=draw.seed,
                epoch=draw.epoch,
                device=latents.device,
            )
        found, quantized = self.contrast(context, latents, masked, noise, temperature or 1.0)
        soft = quantized.logits.softmax(-1).sum(0)  # (groups, V)
        together = draw.training and self.diversity_scope == "processes"
        diversity = diversity_of(shares_of_processes(soft, len(masked.index), together))
        return self._outcome(found, quantized, soft, diversity, masked, num_frames, temperature)

    def _sample(self, num_frames, ids, draw, latents):
        epoch = draw.epoch if draw.training else None
        mask = sample_masks(
            num_frames.tolist(),
            ids,
            **self.mask_options,
            seed=draw.seed,
            epoch=epoch,
            step=draw.step,
            rank=draw.rank,
            width=latents.shape[1],
        )
        return find_masked(
            mask, ids, self.num_negatives, seed=draw.seed, epoch=epoch, device=latents.device
        )

    def contrast(
        self,
        context: torch.Tensor,
        latents: torch.Tensor,
        masked: MaskedFrames,
        noise: torch.Tensor | None,
        temperature: float,
    ) -> tuple[Contrast, Quantized]:
        """The contrast of a batch whose masked frames and noise are known.

        Arguments
        ---------
        context, latents : torch.Tensor
            (B, T, d_model) and (B, T, F): the encoder's output and its front end's.
        masked : MaskedFrames
            N of these.
        noise : torch.Tensor, optional
            (N, groups, num_codes), Gumbel noise.
        temperature : float
            Of the noise.

        Returns
        -------
        tuple of (Contrast, Quantized)
        """
        predictions = self.linear(context.flatten(0, 1)[masked.index])
        quantized = self.quantizer(latents.flatten(0, 1)[masked.index], noise, temperature)
        codes = _numbered(quantized.codes, self.quantizer.num_codes)
        found = contrast(
            predictions[masked.rows],
            quantized.targets[masked.rows],
            codes[masked.rows],
            masked.negatives,
            self.contrastive_temperature,
            len(masked.index),
        )
        return found, quantized

    def _outcome(self, found, quantized, soft, diversity, masked, num_frames, temperature):
        num_masked = len(masked.index)
        loss_sum = found.loss_sum + self.diversity_weight * num_masked * diversity
        num_negatives = self.num_negatives * sum(count for count in masked.counts if count > 1)
        groups, num_codes = self.quantizer.groups, self.quantizer.num_codes
        offsets = num_codes * torch.arange(groups, device=quantized.codes.device)
        counts = torch.bincount((quantized.codes + offsets).flatten(), minlength=groups * num_codes)
        sums = {
            "loss_sum": loss_sum.detach(),
            "contrastive_sum": found.loss_sum.detach(),
            "diversity_sum": num_masked * diversity.detach(),
            "num_correct": found.num_correct,
            "num_dropped": found.num_dropped,
            "num_negatives": num_negatives,
            "num_masked": num_masked,
            "num_valid": num_frames.sum(),
            "temperature_sum": num_masked * round(temperature * STEPS_OF_SUMS) / STEPS_OF_SUMS,
            "counts": counts,
            "soft_counts": (soft.detach().double() * STEPS_OF_SUMS).round().flatten()
            / STEPS_OF_SUMS,
        }
        return Outcome(loss_sum, 1 if self.reduction == "sum" else num_masked, sums)

    def summary(self, sums: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
        """Losses, accuracy and use of the codes; see `summarise`."""
        return summarise(sums, self.quantizer.groups)

    def unusable(self, num_samples: int) -> str | None:
        """Why nothing of an utterance could be predicted: it is too short for a mask."""
        num_frames = self.encoder.num_frames(num_samples)
        return why_unmaskable(num_frames, self.mask_options["mask_length"])

    def warning(self, stats: Mapping[str, float]) -> str | None:
        """Whether the targets have collapsed."""
        return find_collapse(stats, self.quantizer.groups, self.quantizer.num_codes)


def _numbered(codes, num_codes):
    """One number (N,) for the codes (N, groups) of a frame."""
    number = codes[:, 0]
    for group in codes.T[1:]:
        number = number * num_codes + group
    return number
