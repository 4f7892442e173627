"""A fine-tuned model as one module: waveforms in, log-probabilities of CTC outputs out."""

import torch
from torch import nn

from speechbrain_pom.encoder.lengths import padding_mask


class SpeechRecogniser(nn.Module):
    """An encoder with its CTC head and the units that the head's outputs mean.

    Arguments
    ---------
    encoder : SpeechEncoder
    head : torch.nn.Module
        (B, T, d_model) to (B, T, outputs).
    units : speechbrain_pom.ctc.tokenizers.Units
        Output 0 is the blank.

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> units = CharacterUnits()
    >>> recogniser = SpeechRecogniser(torch.nn.Identity(), torch.nn.Linear(16, units.size), units)
    >>> recogniser.classify(torch.randn(1, 5, 16)).exp().sum(-1)
    tensor([[1.0000, 1.0000, 1.0000, 1.0000, 1.0000]], grad_fn=<SumBackward1>)
    """

    def __init__(self, encoder, head, units):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.units = units

    def forward(self, wavs, lengths=None):
        """Recognise a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        lengths : torch.Tensor, optional
            (B,), in samples or relative; see `SpeechEncoder`.

        Returns
        -------
        log_probs : torch.Tensor
            (B, T, outputs) in fp32. All padding is blank beyond doubt, so that decoding is right
            however lengths are rounded.
        num_frames : torch.Tensor
            (B,) integers: the valid frames of each utterance.
        """
        frames, num_frames = self.encoder(wavs, lengths)
        log_probs = self.classify(frames)
        if lengths is not None:
            padding = padding_mask(num_frames, log_probs.shape[1])
            blank = torch.full_like(log_probs[0, 0], -torch.inf)
            blank[self.units.blank_index] = 0.0
            log_probs = torch.where(padding.unsqueeze(-1), blank, log_probs)
        return log_probs, num_frames

    def classify(self, frames):
        """Log-probabilities (B, T, outputs) in fp32 of the encoder's frames (B, T, d_model)."""
        return self.head(frames).float().log_softmax(-1)
