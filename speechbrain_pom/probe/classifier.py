"""The trained part of a probe: weights of the layers, and a linear classifier."""

import torch
from torch import nn

from speechbrain_pom.nnet import WeightedSum
from speechbrain_pom.probe.pooling import Statistics


class Probe(nn.Module):
    """A learnt weighted sum of the layers' means over time, and a linear classifier.

    Each layer is first standardised per dimension, with statistics of the training utterances
    that do not change: layers of a large scale would drown the others in the sum. All of it but
    the softmax of the loss is linear in the encoder's frames, apart from dropout.

    Arguments
    ---------
    num_states : int
        Hidden states of the encoder: its layers, and the input of the first one.
    d_model : int
        Width of the frames.
    num_classes : int
    dropout : float
        Before the classifier.

    Example
    -------
    >>> probe = Probe(num_states=3, d_model=8, num_classes=5)
    >>> states = torch.randn(2, 3, 8)
    >>> probe(states).shape, probe.embed(states).shape
    (torch.Size([2, 5]), torch.Size([2, 8]))
    >>> probe.layer_weights()
    [0.3333, 0.3333, 0.3333]
    """

    def __init__(
        self, num_states: int, d_model: int, num_classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_states, d_model))
        self.register_buffer("std", torch.ones(num_states, d_model))
        self.layer_sum = WeightedSum(num_states)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(d_model, num_classes)

    def embed(self, states: torch.Tensor) -> torch.Tensor:
        """One vector per utterance: the weighted sum of the standardised layers.

        Arguments
        ---------
        states : torch.Tensor
            (B, num_states, d_model), from `layer_means`.

        Returns
        -------
        torch.Tensor
            (B, d_model)
        """
        return self.layer_sum(((states - self.mean) / self.std).unbind(1))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes) of `states` (B, num_states, d_model)."""
        return self.classifier(self.dropout(self.embed(states)))

    def set_statistics(self, statistics: Statistics) -> None:
        """Take over the statistics of the training utterances.

        Arguments
        ---------
        statistics : speechbrain_pom.probe.pooling.Statistics
        """
        self.mean.copy_(statistics.mean())
        self.std.copy_(statistics.std())

    def layer_weights(self) -> list[float]:
        """The weights of the layers, rounded to 4 digits; they add up to 1.

        Returns
        -------
        list of float
        """
        return [round(weight, 4) for weight in self.layer_sum.scores.softmax(0).tolist()]
