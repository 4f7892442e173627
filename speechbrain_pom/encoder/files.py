"""The methods of a `SpeechEncoder` that are about files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from speechbrain_pom.data.audio.files import SAMPLE_RATE
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.overlapping import encode_windows
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.hidden_states import Layers


class Files:
    """Mixin for `SpeechEncoder`: `encode_file`."""

    def encode_file(
        self,
        path: str | Path,
        layers: Layers | None = None,
        window_s: float | None = None,
        overlap_s: float | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Encode an audio file of any sample rate, number of channels and length.

        Arguments
        ---------
        path : str or pathlib.Path
            Resampled and mixed down to mono as needed.
        layers : str, int or sequence of int, optional
            As for `forward`.
        window_s : float, optional
            Longer files are encoded in windows of this length, in the memory of one window
            (and of the result, which is then on the CPU): see
            `speechbrain_pom.inference.encode_windows` for how they agree with a single pass, which
            is the default.
        overlap_s : float, optional
            Of the windows, for attention types that need it.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            (T, d_model), without gradient.

        Raises
        ------
        UserError
            If the file cannot be read, or the encoder is in training mode.
        """
        if self.training:
            raise UserError("the encoder is in training mode: call encoder.eval() before files")
        if self.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"the encoder reads {self.sample_rate} Hz, and files are read at {SAMPLE_RATE} Hz: "
                "read and resample them yourself, and call the encoder"
            )
        layers = self.layers if layers is None else self.check_layers(layers)
        with AudioReader(path) as reader, torch.no_grad():
            if window_s is not None and reader.duration_s > window_s:
                how = {"window_s": window_s, "overlap_s": overlap_s, "layers": layers}
                return encode_windows(self, reader, **how)
            wav = reader.read(0, reader.num_samples).to(self.device)
            frames, _ = self(wav.unsqueeze(0), layers=layers)
        return [one[0] for one in frames] if isinstance(frames, list) else frames[0]
