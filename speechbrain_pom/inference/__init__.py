"""Pretrained models: loading, encoding, transcribing, exporting."""

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.loading import load_encoder
from speechbrain_pom.encoder.weights import load_weights
from speechbrain_pom.encoder.windows.overlapping import encode_windows, windows_are_exact
from speechbrain_pom.inference.recogniser import SpeechRecogniser, load_recogniser
from speechbrain_pom.inference.transcription import transcribe

__all__ = [
    "SpeechEncoder",
    "SpeechRecogniser",
    "encode_windows",
    "load_encoder",
    "load_recogniser",
    "load_weights",
    "transcribe",
    "windows_are_exact",
]
