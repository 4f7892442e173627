"""A fine-tuned model as one module: waveforms in, log-probabilities of CTC outputs out."""

from pathlib import Path

import torch
from torch import nn

from speechbrain_pom.ctc.tokenizer_store import load_units
from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.encoder.lengths import padding_mask
from speechbrain_pom.encoder.loading import HEAD_FILE, find_saved, load_parts, ready
from speechbrain_pom.encoder.weights import (
    WEIGHTS_SUFFIX,
    file_of_part,
    load_part,
    read_tensors,
    strict_load,
)
from speechbrain_pom.inference.streaming.methods import RecognitionStreams
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError

UNITS_FOLDER = "units"
EXPORTED_HEAD_FILE = "head" + WEIGHTS_SUFFIX


class SpeechRecogniser(RecognitionStreams, nn.Module):
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

    def __init__(self, encoder: nn.Module, head: nn.Module, units: Units) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.units = units

    def forward(
        self,
        wavs: torch.Tensor,
        lengths: torch.Tensor | None = None,
        chunks: tuple[int, int | None] | ChunkMask | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Recognise a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        lengths : torch.Tensor, optional
            (B,), in samples or relative; see `SpeechEncoder`.
        chunks : tuple of (int, int or None) or ChunkMask, optional
            The masked pass that a stream equals; see `SpeechEncoder`.

        Returns
        -------
        log_probs : torch.Tensor
            (B, T, outputs) in fp32. All padding is blank beyond doubt, so that decoding is right
            however lengths are rounded.
        num_frames : torch.Tensor
            (B,) integers: the valid frames of each utterance.
        """
        # Only where it is asked for: an encoder of one's own need not know chunks.
        options = {} if chunks is None else {"chunks": chunks}
        frames, num_frames = self.encoder(wavs, lengths, **options)
        log_probs = self.classify(frames)
        if lengths is not None:
            log_probs = only_blank(log_probs, num_frames, self.units.blank_index)
        return log_probs, num_frames

    def classify(self, frames: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, T, outputs) in fp32 of the encoder's frames (B, T, d_model)."""
        return classify(self.head, frames)


def classify(head: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, T, outputs) in fp32, by a head, of frames (B, T, d_model).

    >>> classify(torch.nn.Identity(), torch.zeros(1, 1, 2)).exp()
    tensor([[[0.5000, 0.5000]]])
    """
    return head(frames).float().log_softmax(-1)


def only_blank(log_probs: torch.Tensor, num_frames: torch.Tensor, blank_index: int) -> torch.Tensor:
    """Log-probabilities (B, T, outputs) in which all padding is blank beyond doubt.

    >>> only_blank(torch.zeros(1, 2, 2), torch.tensor([1]), 0)
    tensor([[[0., 0.],
             [0., -inf]]])
    """
    padding = padding_mask(num_frames, log_probs.shape[1])
    blank = torch.full_like(log_probs[0, 0], -torch.inf)
    blank[blank_index] = 0.0
    return torch.where(padding.unsqueeze(-1), blank, log_probs)


def load_recogniser(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> SpeechRecogniser:
    """Load a fine-tuned encoder with its head and units.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's folder, one CKPT+... folder in it, an exported folder, or hf://ORG/NAME@REVISION.
    device : str or torch.device, optional
    dtype : torch.dtype, optional
        Dtype of the weights.

    Returns
    -------
    SpeechRecogniser
        In eval mode.

    Raises
    ------
    UserError
        If there is no such model, it is damaged, it was not fine-tuned, or anything in it does not
        fit.

    Example
    -------
    >>> load_recogniser("results/none")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: 'results/none' does not exist: give a run's folder, a \
CKPT+... folder or an exported folder
    """
    saved = find_saved(path)
    parts = load_parts(saved)
    if saved.is_export:
        if "head" not in parts:
            raise UserError(
                f"'{path}' is an export without a CTC head: export a run of train_ctc.py"
            )
        load_part(parts["head"], "head", file_of_part(saved.checkpoint, "head"))
        units = load_units(saved.checkpoint)
    else:
        head_file = saved.checkpoint / HEAD_FILE
        if "head" not in parts or not head_file.is_file():
            raise UserError(f"{saved.checkpoint} has no CTC head: give a run of train_ctc.py")
        if saved.run_folder is None:
            raise UserError(
                f"{saved.checkpoint} is not in its run's folder, where its units are: give the run"
            )
        strict_load(parts["head"], read_tensors(head_file), str(head_file))
        units = load_units(saved.run_folder / UNITS_FOLDER)
    return ready(SpeechRecogniser(parts["encoder"], parts["head"], units), device, dtype)
