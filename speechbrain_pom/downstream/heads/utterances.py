"""Heads that make an output of each utterance: classes, and embeddings of speakers.

Built and called as those of `speechbrain_pom.downstream.heads.frames`. Heads with embeddings have
`embed` and end in cosines, for an angular margin.
"""

import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.lobes.models.Xvector import Xvector
from torch import nn

from speechbrain_pom.downstream.heads.frames import BiLSTM
from speechbrain_pom.downstream.heads.padding import isolate, mask_lengths, masked_mean


class MeanLinear(nn.Module):
    """The mean over the valid frames and a linear layer without bias: MP3S's first head.

    Arguments
    ---------
    input_size, num_outputs : int

    Example
    -------
    >>> MeanLinear(16, 4)(torch.randn(2, 5, 16), torch.tensor([5, 3])).shape
    torch.Size([2, 4])
    """

    def __init__(self, input_size: int, num_outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(input_size, num_outputs, bias=False)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_outputs)."""
        return self.output(masked_mean(frames, num_frames))


class BiLSTMMean(nn.Module):
    """Bidirectional LSTM, linear layer, mean, linear layer without bias: MP3S's second for intent.

    Arguments
    ---------
    input_size, num_outputs : int
    hidden_size : int
        Of each direction, and of the linear layer.
    num_layers : int
    dropout : float

    Example
    -------
    >>> BiLSTMMean(16, 18, 8)(torch.randn(2, 5, 16), torch.tensor([5, 3])).shape
    torch.Size([2, 18])
    """

    def __init__(
        self,
        input_size: int,
        num_outputs: int,
        hidden_size: int = 768,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encode = BiLSTM(input_size, hidden_size, num_layers, dropout)
        self.linear = nn.Linear(2 * hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_outputs, bias=False)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_outputs)."""
        frames = self.linear(self.encode(frames, num_frames))
        return self.output(masked_mean(frames, num_frames))


class EmbeddingHead(nn.Module):
    """Base of heads with an embedding: cosines between it and a vector of each class.

    Arguments
    ---------
    embedding_size, num_outputs : int
    scale : float
        What cosines are multiplied by; 1 where the loss has its own scale.

    Example
    -------
    >>> class Means(EmbeddingHead):
    ...     def embed(self, frames, num_frames):
    ...         return masked_mean(frames, num_frames)
    >>> Means(16, 7, scale=30.0)(torch.randn(2, 9, 16), torch.tensor([9, 3])).shape
    torch.Size([2, 7])
    """

    def __init__(self, embedding_size: int, num_outputs: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.classifier = Classifier(embedding_size, out_neurons=num_outputs)

    def embed(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Embeddings of utterances.

        Arguments
        ---------
        frames : torch.Tensor
            (B, T, d)
        num_frames : torch.Tensor
            (B,) integers: the valid frames.

        Returns
        -------
        torch.Tensor
            (B, embedding_size)
        """
        raise NotImplementedError

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Cosines (B, num_outputs), times `scale`."""
        embeddings = self.embed(frames, num_frames)
        return self.scale * self.classifier(embeddings.unsqueeze(1)).squeeze(1)


class ECAPAHead(EmbeddingHead):
    """SpeechBrain's ECAPA-TDNN: MP3S's second head for emotion and for speakers.

    Arguments
    ---------
    input_size, num_outputs : int
    embedding_size : int
    channels : int
        Of its blocks; three times as many are pooled.
    attention_channels : int
    scale : float
        As `EmbeddingHead`.

    Example
    -------
    >>> head = ECAPAHead(16, 7, embedding_size=6, channels=8)
    >>> frames, num_frames = torch.randn(2, 9, 16), torch.tensor([9, 3])
    >>> head(frames, num_frames).shape, head.embed(frames, num_frames).shape
    (torch.Size([2, 7]), torch.Size([2, 6]))
    """

    def __init__(
        self,
        input_size: int,
        num_outputs: int,
        embedding_size: int = 512,
        channels: int = 512,
        attention_channels: int = 64,
        scale: float = 1.0,
    ) -> None:
        super().__init__(embedding_size, num_outputs, scale)
        self.ecapa = ECAPA_TDNN(
            input_size,
            channels=[channels] * 4 + [3 * channels],
            kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1],
            attention_channels=attention_channels,
            lin_neurons=embedding_size,
        )
        self._lengths = isolate(self.ecapa)

    def embed(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, embedding_size)."""
        with self._lengths.within(num_frames):
            relative = mask_lengths(num_frames, frames.shape[1])
            return self.ecapa(frames, relative).squeeze(1)


class XVectorHead(EmbeddingHead):
    """SpeechBrain's X-vector: MP3S's first head for speakers.

    Arguments
    ---------
    input_size, num_outputs : int
    embedding_size : int
    channels : int
        Of its blocks.
    pooled_channels : int
        Of the last one, which is pooled.
    scale : float
        As `EmbeddingHead`.

    Example
    -------
    >>> head = XVectorHead(16, 7, embedding_size=6, channels=8, pooled_channels=10)
    >>> head(torch.randn(2, 9, 16), torch.tensor([9, 3])).shape
    torch.Size([2, 7])
    """

    def __init__(
        self,
        input_size: int,
        num_outputs: int,
        embedding_size: int = 512,
        channels: int = 512,
        pooled_channels: int = 1500,
        scale: float = 1.0,
    ) -> None:
        super().__init__(embedding_size, num_outputs, scale)
        self.xvector = Xvector(
            in_channels=input_size,
            tdnn_channels=[channels] * 4 + [pooled_channels],
            tdnn_kernel_sizes=[5, 3, 3, 1, 1],
            tdnn_dilations=[1, 2, 3, 1, 1],
            lin_neurons=embedding_size,
        )
        self._lengths = isolate(self.xvector)

    def embed(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, embedding_size)."""
        with self._lengths.within(num_frames):
            for block in self.xvector.blocks:
                frames = block(frames)
        return frames.squeeze(1)
