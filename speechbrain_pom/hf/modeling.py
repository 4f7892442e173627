"""Encoders and recognisers as models of transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from speechbrain_pom.encoder.lengths import padding_mask
from speechbrain_pom.encoder.weights import SHARED_FILE
from speechbrain_pom.hf.configuration import PoMSpeechConfig
from speechbrain_pom.inference.recogniser import classify, only_blank
from speechbrain_pom.utils.errors import UserError

REDUCTIONS = ("mean", "sum")


class PoMSpeechPreTrainedModel(PreTrainedModel):
    """What both models share: the encoder, how it is made, and lengths from masks.

    Arguments
    ---------
    config : PoMSpeechConfig
    """

    config_class = PoMSpeechConfig
    base_model_prefix = "model"  # of no part: the encoder has one name in both models
    main_input_name = "input_values"
    _keep_in_fp32_modules_strict: ClassVar = ["features"]
    _supports_sdpa = _supports_flash_attn = False

    def __init__(self, config: PoMSpeechConfig) -> None:
        super().__init__(config)
        dtype = torch.get_default_dtype()
        # transformers makes models on the meta device, in the dtype of their weights: tables of
        # windows, filters and sines would be lost, and computed in half precision.
        with torch.device("cpu"):
            torch.set_default_dtype(torch.float32)
            try:
                self._add_parts(config)
            finally:
                torch.set_default_dtype(dtype)
        self.to(dtype)
        self.post_init()

    def _add_parts(self, config):
        self.encoder = config.build()["encoder"]

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As of any model of transformers, but every weight of the encoder has to be there.

        Arguments
        ---------
        *args, **options
            See `transformers.PreTrainedModel.from_pretrained`.

        Returns
        -------
        PreTrainedModel or tuple
            In eval mode; with `output_loading_info` as there.

        Raises
        ------
        UserError
            If weights of the encoder are missing; those of a head may be.
        """
        wanted = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **options)
        missing = sorted(key for key in info["missing_keys"] if key.startswith("encoder."))
        if missing:
            raise UserError(
                f"{SHARED_FILE} has no {missing[0]} (missing: {len(missing)}): export it again"
            )
        model.encoder.features.trust_statistics()
        return (model, info) if wanted else model

    def _init_weights(self, module):
        """Of a head that is not loaded; the encoder comes with initial weights of its own."""
        if module in set(getattr(self, "head", nn.Identity()).modules()):
            super()._init_weights(module)

    def num_frames(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """The number of frames of an utterance, from its number of samples."""
        return self.encoder.num_frames(num_samples)

    def _get_feat_extract_output_lengths(self, input_lengths, *_):
        """The same, by the name that transformers' helpers call."""
        return self.num_frames(input_lengths)

    def _get_feature_vector_attention_mask(self, feature_vector_length, attention_mask, *_):
        """A mask (B, T) of frames, from one of samples."""
        num_frames = self.num_frames(attention_mask.sum(-1))
        return ~padding_mask(num_frames, feature_vector_length)

    def _encode(self, input_values, attention_mask, hidden_states):
        """Frames, all hidden states or None, and the lengths in frames or None."""
        lengths = None if attention_mask is None else _lengths(attention_mask, input_values)
        if not hidden_states:
            frames, num_frames = self.encoder(input_values, lengths)
            return frames, None, None if lengths is None else num_frames
        every = list(range(self.encoder.num_states))
        states, num_frames = self.encoder(input_values, lengths, layers=every)
        frames = self.encoder.output(states, None if lengths is None else num_frames)
        return frames, tuple(states), None if lengths is None else num_frames


def _lengths(attention_mask, input_values):
    """Samples of each utterance; the mask has to be of padding on the right."""
    mask = attention_mask.bool()
    if mask.shape != input_values.shape:
        raise UserError(
            f"attention_mask is {tuple(mask.shape)} for input_values {tuple(input_values.shape)}: "
            "give one value for each sample"
        )
    lengths = mask.sum(1)
    if not torch.equal(mask, ~padding_mask(lengths, mask.shape[1])):
        raise UserError("attention_mask has zeros before ones: pad utterances on the right")
    return lengths


class PoMSpeechModel(PoMSpeechPreTrainedModel):
    """A speech encoder: waveforms to frames, as `speechbrain_pom.load_encoder` gives them.

    Arguments
    ---------
    config : PoMSpeechConfig

    Example
    -------
    >>> from speechbrain_pom.encoder.architecture import read_architecture
    >>> sizes = {"d_model": 16, "d_ffn": 16, "num_encoder_layers": 2}
    >>> sizes["normalize.norm_type"] = "sentence"
    >>> text = read_architecture("hparams/pom.yaml", sizes)
    >>> model = PoMSpeechModel(PoMSpeechConfig(architecture=text)).eval()
    >>> output = model(torch.randn(2, 16000), output_hidden_states=True)
    >>> output.last_hidden_state.shape, len(output.hidden_states)
    (torch.Size([2, 26, 16]), 3)
    """

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^head\."]

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput | tuple:
        """Encode a batch of waveforms.

        Arguments
        ---------
        input_values : torch.Tensor
            (B, samples) at the config's `sampling_rate`, padded on the right.
        attention_mask : torch.Tensor, optional
            (B, samples), 0 in padding; all samples are valid when not given.
        output_hidden_states : bool, optional
            Return the input of the first layer and the output of each too.
        return_dict : bool, optional
            False: a tuple.

        Returns
        -------
        BaseModelOutput
            last_hidden_state (B, T, d_model), exactly zero in padding, and hidden_states.

        Raises
        ------
        UserError
            For a mask that is not of padding on the right.
        """
        wants = _chosen(output_hidden_states, self.config.output_hidden_states)
        frames, states, _ = self._encode(input_values, attention_mask, wants)
        output = BaseModelOutput(last_hidden_state=frames, hidden_states=states)
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()


class PoMSpeechForCTC(PoMSpeechPreTrainedModel):
    """A recogniser: waveforms to log-probabilities, as `speechbrain_pom.load_recogniser`.

    From a pretrained encoder it is made with a linear head, `vocab_size` outputs wide, to be
    fine-tuned.

    Arguments
    ---------
    config : PoMSpeechConfig

    Raises
    ------
    UserError
        If there is neither a head nor a vocab_size, or for labels that CTC cannot learn.

    Example
    -------
    >>> from speechbrain_pom.encoder.architecture import read_architecture
    >>> sizes = {"d_model": 16, "d_ffn": 16, "num_encoder_layers": 2}
    >>> sizes["normalize.norm_type"] = "sentence"
    >>> text = read_architecture("hparams/pom.yaml", sizes)
    >>> model = PoMSpeechForCTC(PoMSpeechConfig(architecture=text, vocab_size=29))
    >>> output = model(torch.randn(1, 16000), labels=torch.tensor([[3, 4, -100]]))
    >>> output.logits.shape, output.loss.shape
    (torch.Size([1, 26, 29]), torch.Size([]))
    """

    def _add_parts(self, config):
        parts = config.build()
        self.encoder = parts["encoder"]
        self.head = parts.get("head")
        if self.head is None:
            if not config.vocab_size:
                raise UserError(
                    "the model has no CTC head and vocab_size is not given: give the number of "
                    "outputs, as AutoModelForCTC.from_pretrained(folder, vocab_size=29)"
                )
            self.head = nn.Linear(self.encoder.d_model, config.vocab_size)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput | tuple:
        """Recognise a batch of waveforms.

        Arguments
        ---------
        input_values, attention_mask, output_hidden_states, return_dict
            See `PoMSpeechModel.forward`.
        labels : torch.Tensor, optional
            (B, longest) outputs; negative values are padding.

        Returns
        -------
        CausalLMOutput
            loss, if there are labels; logits (B, T, vocab_size) in fp32: log-probabilities, in
            padding blank beyond doubt; and hidden_states.
        """
        wants = _chosen(output_hidden_states, self.config.output_hidden_states)
        frames, states, num_frames = self._encode(input_values, attention_mask, wants)
        log_probs = classify(self.head, frames)
        loss = None
        if labels is not None:
            valid = num_frames
            if valid is None:
                valid = torch.full((len(log_probs),), log_probs.shape[1], device=log_probs.device)
            loss = self._ctc_loss(log_probs, valid, labels.to(log_probs.device))
        if num_frames is not None:
            log_probs = only_blank(log_probs, num_frames, self.config.pad_token_id)
        output = CausalLMOutput(loss=loss, logits=log_probs, hidden_states=states)
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()

    def _ctc_loss(self, log_probs, num_frames, labels):
        reduction = self.config.ctc_loss_reduction
        if reduction not in REDUCTIONS:
            raise UserError(f"ctc_loss_reduction is {reduction!r}: choose mean or sum")
        if bool((labels >= log_probs.shape[-1]).any()):
            raise UserError(
                f"labels go up to {int(labels.max())}, and the head has {log_probs.shape[-1]} "
                "outputs: give labels below that, and negative ones for padding"
            )
        present = labels >= 0
        targets, lengths = labels.masked_select(present), present.sum(-1)
        blank = self.config.pad_token_id
        return nn.functional.ctc_loss(
            log_probs.transpose(0, 1), targets, num_frames, lengths, blank, reduction
        )


def _chosen(given: bool | None, default: bool) -> bool:
    return default if given is None else given
