"""What is exported: a model as a module of tensors alone, with what its graph has to agree with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_pom.encoder.describe import describe_layers
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.utils.errors import UserError

Model = SpeechEncoder | SpeechRecogniser
NEXT = "next."  # before the name of a state: what it is after the step
Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


class Axis(NamedTuple):
    """An input or output of a graph.

    Arguments
    ---------
    name : str
    free : dict of int to str
        Dimensions that are of any size, with their names.
    """

    name: str
    free: dict[int, str]


class Graph(Protocol):
    """What is traced, described and checked in one way: a module of tensors.

    Attributes
    ----------
    inputs, outputs : list of Axis
    facts : dict of str to str
        What who runs the graph has to know.
    mixers : str
        The attention spec of the model, for messages.
    """

    inputs: list[Axis]
    outputs: list[Axis]
    facts: dict[str, str]
    mixers: str

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with."""

    def disagreement(self, run: Run) -> float:
        """How far another implementation is from the model: see `difference`."""


def encoder_of(model: Model) -> SpeechEncoder:
    """The encoder of a model, which may be one.

    Raises
    ------
    UserError
        If it cannot be exported as it is: in training mode, on a GPU, in half precision, or with
        several layers as its output.
    """
    encoder = model.encoder if isinstance(model, SpeechRecogniser) else model
    if model.training:
        raise UserError("the model is in training mode: call model.eval() before its export")
    if encoder.device.type != "cpu" or encoder.dtype != torch.float32:
        raise UserError(
            f"the model is in {encoder.dtype} on {encoder.device}: load it with device='cpu' and "
            "without a dtype for its export"
        )
    if isinstance(encoder.layers, list):
        raise UserError(
            f"layers is {encoder.layers}, and an exported graph has one output: choose a number, "
            "'last' or 'sum'"
        )
    return encoder


def spec_of(encoder: SpeechEncoder) -> str:
    """The attention spec of an encoder; of SpeechBrain's TransformerEncoder, the names in it.

    >>> spec_of(getfixture("tiny_encoder"))
    'PoM'
    """
    own = encoder.transformer.encoder
    return getattr(own, "attention_type", None) or describe_layers(own)["attention_type"]


def output_name(model: Model) -> str:
    """What a model returns, as the name of an output."""
    return "log_probs" if isinstance(model, SpeechRecogniser) else "frames"


def facts_of(model: Model, encoder: SpeechEncoder) -> dict[str, str]:
    """What a graph does not say by itself, as texts: times, and the labels of CTC outputs."""
    frame_s = encoder.samples_per_frame / encoder.sample_rate
    facts = {"sample_rate": encoder.sample_rate, "frame_s": f"{frame_s:g}"}
    facts["attention_type"] = spec_of(encoder)
    if isinstance(model, SpeechRecogniser):
        facts["labels"] = json.dumps(model.units.vocab_list, ensure_ascii=False)
        facts["blank_index"] = model.units.blank_index
    return {name: str(value) for name, value in facts.items()}


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Samples that sound like a waterfall at a distance, the same in each call."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator)


def difference(found: np.ndarray, expected: Tensor) -> float:
    """The largest difference, in units of 1 or of the largest expected value if that is larger.

    Infinite where shapes, infinities or NaN differ.

    >>> difference(np.float32([1.0, -np.inf]), torch.tensor([2.0, -torch.inf]))
    0.5
    >>> difference(np.float32([1.0]), torch.tensor([1.0, 2.0]))
    inf
    """
    found = torch.from_numpy(np.asarray(found))
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    finite = torch.isfinite(expected)
    same = torch.equal(found[~finite], expected[~finite]) and torch.isfinite(found[finite]).all()
    if not same:
        return float("inf")
    if not finite.any():
        return 0.0
    expected = expected[finite].double()
    largest = (found[finite].double() - expected).abs().max()
    return float(largest / expected.abs().max().clamp(min=1))


class WaveformGraph(nn.Module):
    """A model as a function of waveforms and their lengths, of any batch size and length.

    Arguments
    ---------
    model : SpeechEncoder or SpeechRecogniser
        In eval mode, in fp32 on the CPU.

    Raises
    ------
    UserError
        As `encoder_of`.

    Example
    -------
    >>> graph = WaveformGraph(getfixture("tiny_encoder"))
    >>> frames, num_frames = graph(torch.randn(2, 9000), torch.tensor([9000, 500]))
    >>> frames.shape, num_frames
    (torch.Size([2, 15, 16]), tensor([15,  1]))
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        encoder = encoder_of(model)
        self.model, self._encoder = model, [encoder]  # in a list: not a second time a part
        self.mixers = spec_of(encoder)
        # A graph with an axis of one frame has one for ever. Where padding is exact, a frame more
        # changes nothing; elsewhere what has one frame alone is left out.
        exact = encoder.padding == "exact"
        self.extra = encoder.samples_per_frame if exact else 0
        self.shortest = _fewest_samples(encoder, 1 if exact else 2)
        batch, samples, frames = {0: "batch"}, {1: "samples"}, {1: "frames"}
        self.inputs = [Axis("wavs", batch | samples), Axis("num_samples", batch)]
        self.outputs = [Axis(output_name(model), batch | frames), Axis("num_frames", batch)]
        self.facts = {**facts_of(model, encoder), "min_samples": str(self.shortest)}

    def forward(self, wavs: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the model returns.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples) fp32, padded on the right.
        num_samples : torch.Tensor
            (B,) int64.

        Returns
        -------
        output : torch.Tensor
            (B, T, d_model) frames, or (B, T, outputs) log-probabilities.
        num_frames : torch.Tensor
            (B,) int64.
        """
        num_frames = self._encoder[0].num_frames(wavs.shape[1])
        output, lengths = self.model(F.pad(wavs, (0, self.extra)), num_samples)
        return output[:, :num_frames], lengths

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with."""
        return noise(3, 16123), torch.tensor([16123, 9000, 4001])

    def disagreement(self, run: Run) -> float:
        """How far another implementation is from the model, alone and in batches.

        >>> graph = WaveformGraph(getfixture("tiny_encoder"))
        >>> graph.disagreement(lambda feeds: [one.numpy() for one in graph(
        ...     *map(torch.from_numpy, feeds))]) < 1e-5
        True
        """
        lengths = [[1], [16000], [639, 1], [8000, 8000], [31999, 1, 12345, 640], [160000, 1]]
        return max(self._one(run, [max(n, self.shortest) for n in each]) for each in lengths)

    @torch.no_grad()
    def _one(self, run, lengths):
        wavs, lengths = noise(len(lengths), max(lengths)), torch.tensor(lengths)
        wavs *= 10.0 ** -torch.arange(len(lengths)).unsqueeze(1)  # loud and quiet ones
        found = run([wavs.numpy(), lengths.numpy()])
        pairs = zip(found, self.model(wavs, lengths), strict=True)
        return max(difference(*pair) for pair in pairs)


def _fewest_samples(encoder, num_frames):
    """Samples that an utterance needs for a number of frames."""
    few, many = 0, encoder.sample_rate
    while many - few > 1:
        middle = (few + many) // 2
        enough = encoder.num_frames(middle) >= num_frames
        few, many = (few, middle) if enough else (middle, many)
    return many
