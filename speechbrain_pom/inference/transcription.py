"""From an audio file of any length to its words, with times.

Memory is bounded: long files are encoded in windows, frames and outputs are memory-mapped temporary
files, and segments are decoded one after the other.
"""

import math
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from speechbrain_pom.ctc.decoding import greedy_decode
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.overlapping import encode_windows
from speechbrain_pom.inference.pauses import split_at_pauses
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.inference.segments import Clock, Transcript, decode_segment
from speechbrain_pom.inference.segments import Segment as Segment  # its place in 0.1
from speechbrain_pom.utils.disks import explain_full_disk, reserve
from speechbrain_pom.utils.errors import UserError

PAUSE_S = 0.6
MAX_SEGMENT_S = 30.0
_BLOCK = 4096  # frames that the head gets at a time
_ELSEWHERE = "set TMPDIR to a folder on another disk"


def transcribe(
    recogniser: SpeechRecogniser,
    source: str | Path | AudioReader,
    *,
    decode: Callable[[Tensor, Tensor], list[str]] | None = None,
    window_s: float = 30.0,
    pause_s: float = PAUSE_S,
    max_segment_s: float = MAX_SEGMENT_S,
) -> Transcript:
    """Transcribe an audio file, with the times of its words.

    The outputs are cut into segments at pauses (`split_at_pauses`), and each is decoded by itself.
    Greedy decoding loses nothing by that; a language model does not see beyond a pause.

    Arguments
    ---------
    recogniser : speechbrain_pom.inference.SpeechRecogniser
        In eval mode.
    source : str, pathlib.Path or speechbrain_pom.data.audio.reader.AudioReader
        A file of any sample rate, number of channels and length.
    decode : callable, optional
        `decode(log_probs (1, T, num_outputs), lengths_relative (1,)) -> [text]`, such as
        `make_beam_searcher` of `speechbrain_pom.ctc.decoding` makes; greedy by default.
    window_s : float
        Longer files are encoded in windows of this length.
    pause_s : float
        Pauses of at least this length separate segments.
    max_segment_s : float
        Longer segments are cut, at the best place there is.

    Returns
    -------
    Transcript

    Raises
    ------
    UserError
        If the file cannot be read, the disk for temporary files is full, or the recogniser is in
        training mode.
    ValueError
        If the model's outputs are NaN.

    Example
    -------
    >>> import soundfile
    >>> from types import SimpleNamespace
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> class SaysHi(torch.nn.Module):
    ...     units = CharacterUnits()
    ...     encoder = SimpleNamespace(
    ...         samples_per_frame=640, sample_rate=16000, hop_ms=10, device="cpu"
    ...     )
    ...
    ...     def forward(self, wavs, lengths=None):
    ...         labels = torch.tensor([0] * 5 + [9, 0, 10] + [0] * 18)
    ...         outputs = torch.nn.functional.one_hot(labels, self.units.size)
    ...         return (9.0 * outputs).log_softmax(-1).unsqueeze(0), torch.tensor([26])
    >>> path = getfixture("tmp_path") / "hi.wav"
    >>> soundfile.write(path, [0.1] * 16000, 16000)
    >>> (segment,) = transcribe(SaysHi().eval(), path).segments
    >>> [(word.text, round(word.start_s, 2), round(word.end_s, 2)) for word in segment.words]
    [('HI', 0.2, 0.32)]
    """
    if recogniser.training:
        raise UserError("the recogniser is in training mode: call recogniser.eval() before files")
    with ExitStack() as stack:
        reader = source
        if not isinstance(source, AudioReader):
            reader = stack.enter_context(AudioReader(source))
        log_probs = _outputs(recogniser, reader, window_s, stack)
        return transcript_of(
            recogniser, log_probs, reader.duration_s, decode, pause_s, max_segment_s
        )


def transcript_of(
    recogniser: SpeechRecogniser,
    log_probs: Tensor,
    duration_s: float,
    decode: Callable[[Tensor, Tensor], list[str]] | None = None,
    pause_s: float = PAUSE_S,
    max_segment_s: float = MAX_SEGMENT_S,
) -> Transcript:
    """The transcript of a file of some duration from its outputs (T, num_outputs).

    Arguments and errors are those of `transcribe`.
    """
    units, encoder = recogniser.units, recogniser.encoder
    if decode is None:
        decode = partial(greedy_decode, units=units)
    frame_s = encoder.samples_per_frame / encoder.sample_rate
    spans = split_at_pauses(
        log_probs.argmax(-1), units, round(pause_s / frame_s), round(max_segment_s / frame_s)
    )
    # Feature frames are centred at multiples of their hop: the first one starts before 0.
    clock = Clock(frame_s, encoder.hop_ms / 2000, duration_s)
    segments = [decode_segment(log_probs[a:b], a, decode, units, clock) for a, b in spans]
    return Transcript([one for one in segments if one is not None], duration_s)


def _outputs(recogniser, reader, window_s, stack):
    """Log-probabilities (T, num_outputs) on the CPU, of a long file memory-mapped."""
    with torch.no_grad():
        encoder = recogniser.encoder
        if reader.duration_s <= window_s:
            wav = reader.read(0, reader.num_samples).to(encoder.device)
            return recogniser(wav.unsqueeze(0))[0][0].cpu()
        with explain_full_disk(tempfile.gettempdir(), _ELSEWHERE):
            temporary = tempfile.TemporaryDirectory(prefix="speechbrain_pom_")
        folder = stack.enter_context(temporary)
        num_frames = encoder.num_frames(reader.num_samples)
        frames = _on_disk(folder, "frames", (num_frames, encoder.d_model), encoder.dtype)
        encode_windows(encoder, reader, window_s=window_s, out=frames)
        outputs = (num_frames, recogniser.units.size)
        log_probs = _on_disk(folder, "log_probs", outputs, torch.float32)
        for start in range(0, num_frames, _BLOCK):
            block = frames[start : start + _BLOCK].to(encoder.device)
            log_probs[start : start + _BLOCK] = recogniser.classify(block.unsqueeze(0))[0].cpu()
        return log_probs


def _on_disk(folder, name, shape, dtype):
    """A tensor of which only the parts in use are in memory."""
    file, size = os.path.join(folder, name), math.prod(shape)
    with explain_full_disk(os.path.dirname(folder), _ELSEWHERE), open(file, "wb") as stream:
        reserve(stream, size * dtype.itemsize)
    return torch.from_file(file, shared=True, size=size, dtype=dtype).view(shape)
