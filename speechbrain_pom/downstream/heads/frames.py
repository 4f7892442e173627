"""Heads that make an output of each frame, for CTC.

A head is built with the width of its frames and its number of outputs, and called with frames
(B, T, d) and the valid ones of each utterance (B,).
"""

import torch
from speechbrain.lobes.models.ContextNet import ContextNet
from speechbrain.nnet.RNN import LSTM
from torch import nn

from speechbrain_pom.downstream.heads.padding import isolate
from speechbrain_pom.nnet.projections import is_plain
from speechbrain_pom.ops.lstm import bidirectional_lstm


class LinearFrames(nn.Module):
    """A linear layer, or two with a sigmoid between them (MP3S's second head for Common Voice).

    Arguments
    ---------
    input_size : int
    num_outputs : int
    hidden_size : int, optional
        None for one layer.

    Example
    -------
    >>> LinearFrames(16, 30, 8)(torch.randn(2, 5, 16), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 30])
    """

    def __init__(self, input_size: int, num_outputs: int, hidden_size: int | None = 1024) -> None:
        super().__init__()
        self.hidden = None
        if hidden_size is not None:
            self.hidden = nn.Linear(input_size, hidden_size)
            input_size = hidden_size
        self.output = nn.Linear(input_size, num_outputs)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, num_outputs)."""
        if self.hidden is not None:
            frames = self.hidden(frames).sigmoid()
        return self.output(frames)


class BiLSTM(nn.Module):
    """SpeechBrain's bidirectional LSTM over the valid frames alone.

    SpeechBrain packs a batch by the product of its relative lengths, which may fall below the
    integer and lose the last frame; here the integers themselves are used.

    Arguments
    ---------
    input_size : int
    hidden_size : int
        Of each direction.
    num_layers : int
    dropout : float
        Between the layers.

    Example
    -------
    >>> BiLSTM(16, 8)(torch.randn(2, 5, 16), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.lstm = LSTM(
            hidden_size,
            input_size=input_size,
            num_layers=num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=True,
        )

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """(B, T, d) to (B, T, 2 hidden_size), zero in padding."""
        rnn = self.lstm.rnn
        if frames.device.type == "cpu" and is_plain(rnn):  # cuDNN is fast with packed sequences
            weights = rnn.all_weights
            layers = list(zip(weights[::2], weights[1::2], strict=True))
            dropout = rnn.dropout if self.training else 0.0
            return bidirectional_lstm(frames, num_frames, layers, dropout=dropout)
        packed = nn.utils.rnn.pack_padded_sequence(
            frames, num_frames.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = self.lstm(packed)
        return nn.utils.rnn.pad_packed_sequence(
            states, batch_first=True, total_length=frames.shape[1]
        )[0]


class BiLSTMFrames(nn.Module):
    """A bidirectional LSTM and a linear layer: the first head of MP3S's speech recognition.

    Arguments
    ---------
    input_size, num_outputs : int
    hidden_size : int
    num_layers : int
    dropout : float

    Example
    -------
    >>> BiLSTMFrames(16, 30, 8)(torch.randn(2, 5, 16), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 30])
    """

    def __init__(
        self,
        input_size: int,
        num_outputs: int,
        hidden_size: int = 1024,
        num_layers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.encode = BiLSTM(input_size, hidden_size, num_layers, dropout)
        self.output = nn.Linear(2 * hidden_size, num_outputs)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, num_outputs)."""
        return self.output(self.encode(frames, num_frames))


class ContextNetFrames(nn.Module):
    """SpeechBrain's ContextNet with all strides 1, and a linear layer: MP3S's second head.

    Arguments
    ---------
    input_size, num_outputs : int
    channels : int
        That go out of it.
    num_blocks, num_layers : int
        Blocks, and depthwise convolutions in each of them.
    conv_channels : list of int, optional
        Of the blocks; None for SpeechBrain's 256 and 512.
    dropout : float

    Example
    -------
    >>> head = ContextNetFrames(16, 30, 8, num_blocks=1, num_layers=1, conv_channels=[8])
    >>> head(torch.randn(2, 5, 16), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 30])
    """

    def __init__(
        self,
        input_size: int,
        num_outputs: int,
        channels: int = 640,
        num_blocks: int = 21,
        num_layers: int = 5,
        conv_channels: list[int] | None = None,
        dropout: float = 0.15,
    ) -> None:
        super().__init__()
        self.contextnet = ContextNet(
            input_shape=[2, 8, input_size],
            out_channels=channels,
            conv_channels=conv_channels,
            strides=[1] * num_blocks,
            num_blocks=num_blocks,
            num_layers=num_layers,
            dropout=dropout,
        )
        self.output = nn.Linear(channels, num_outputs)
        self._lengths = isolate(self.contextnet)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, num_outputs)."""
        with self._lengths.within(num_frames):
            return self.output(self.contextnet(frames))
