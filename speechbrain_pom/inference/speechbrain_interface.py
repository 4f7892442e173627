"""What the YAML of an exported model names, for SpeechBrain's `from_hparams`.

`speechbrain_pom.inference.export` writes such YAMLs. Weights are read with safetensors: a file of
an export can hold tensors and text, never code.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.utils.fetching import FetchConfig, FetchFrom, LocalStrategy, fetch, guess_source
from speechbrain.utils.parameter_transfer import Pretrainer
from torch import nn

from speechbrain_pom.ctc.tokenizer_store import load_units
from speechbrain_pom.ctc.tokenizers import UNITS_FILE, Units
from speechbrain_pom.encoder.weights import SHARED_FILE, WEIGHTS_SUFFIX, load_part
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of


class Embeddings(nn.Module):
    """An encoder in the form that SpeechBrain's `WaveformEncoder` calls.

    Arguments
    ---------
    encoder : speechbrain_pom.encoder.encoder.SpeechEncoder

    Example
    -------
    >>> sorted(Embeddings(lambda wavs, lengths: (wavs, lengths))(torch.zeros(2, 8)))
    ['embeddings', 'num_frames']
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wavs: torch.Tensor, lengths: torch.Tensor | None = None) -> dict:
        """Encode waveforms (B, samples) of relative lengths (B,)."""
        frames, num_frames = self.encoder(wavs, lengths)
        return {"embeddings": frames, "num_frames": num_frames}


class LogProbs(SpeechRecogniser):
    """A recogniser in the form that SpeechBrain's `EncoderASR` calls.

    Its units are a `Tokenizer`.
    """

    def forward(self, wavs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities (B, T, outputs) of waveforms (B, samples); all padding is blank."""
        return super().forward(wavs, lengths)[0]


class Tokenizer:
    """Units that a YAML names before their files are there.

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> folder = getfixture("tmp_path")
    >>> CharacterUnits().save(folder)
    >>> tokenizer = Tokenizer()
    >>> tokenizer.load(folder)
    >>> tokenizer.decode_ids([9, 10])
    'HI'
    """

    blank_index = Units.blank_index

    def __init__(self) -> None:
        self.units = None

    def load(self, folder: str | Path) -> None:
        """Load the units."""
        self.units = load_units(folder)

    def decode_ids(self, labels: Sequence[int]) -> str:
        """The text of labels, without blanks and repetitions; the name is SentencePiece's."""
        return self.units.decode(labels)


def greedy_labels(
    log_probs: torch.Tensor, lengths: torch.Tensor, blank_index: int
) -> list[list[int]]:
    """The labels of a batch by greedy search, for SpeechBrain's `EncoderASR`.

    All frames are read: those of padding are blank, and lengths relative to the samples, as they
    come here, can be a frame off.

    >>> frames = torch.nn.functional.one_hot(torch.tensor([[9, 9, 0, 10, 0]]), 29)
    >>> greedy_labels(frames.float().log(), torch.tensor([0.2]), blank_index=0)
    [[9, 10]]
    """
    return ctc_greedy_decode(log_probs, torch.ones(len(log_probs)), blank_id=blank_index)


class SafePretrainer(Pretrainer):
    """SpeechBrain's `Pretrainer` for exports: safetensors, loaded strictly.

    Arguments
    ---------
    loadables : dict
        Name to module, whose weights are in `<name>.safetensors` (or with those of all others in
        `model.safetensors`), or to `Tokenizer`.
    sha256 : dict of str to str
        Files of the export, and what they must be: SpeechBrain takes files that a `savedir`
        already has, whatever model they are of.
    """

    def __init__(self, loadables: dict, sha256: dict[str, str]) -> None:
        super().__init__(loadables=loadables)
        self.sha256 = dict(sha256)
        self.collected = {}

    def collect_files(
        self,
        default_source: str | Path,
        local_strategy: LocalStrategy = LocalStrategy.SYMLINK,
        fetch_config: FetchConfig = FetchConfig(),  # noqa: B008 - SpeechBrain's signature; it is frozen
    ) -> dict[str, Path]:
        """Fetch the files from where the YAML is."""
        kind, place = guess_source(default_source)
        for name, expected in self.sha256.items():
            how = {"local_strategy": local_strategy, "fetch_config": fetch_config}
            found = Path(fetch(name, default_source, savedir=self.collect_in, **how))
            # With a savedir of another export, its YAML and its weights agree with one another.
            paths = [found, Path(place) / name] if kind is FetchFrom.LOCAL else [found]
            for path in dict.fromkeys(path.resolve() for path in paths):
                if not path.is_file():
                    raise UserError(f"'{path}' is missing: the export is not complete")
                if sha256_of(path) != expected:
                    raise UserError(
                        f"'{path}' is not what this hyperparams.yaml was exported with: it was "
                        "changed or damaged, or savedir holds another export; give an empty savedir"
                    )
            self.collected[name] = found
        return self.collected

    def load_collected(self) -> None:
        """Load the files that were collected."""
        for name, loadable in self.loadables.items():
            if isinstance(loadable, Tokenizer):
                loadable.load(self.collected[UNITS_FILE].parent)
            else:
                own = self.collected.get(name + WEIGHTS_SUFFIX)
                load_part(loadable, name, own or self.collected[SHARED_FILE])
