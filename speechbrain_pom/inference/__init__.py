"""Pretrained models: loading, encoding, transcribing, exporting."""

from speechbrain_pom.inference.encoder import SpeechEncoder
from speechbrain_pom.inference.hub import load_weights
from speechbrain_pom.inference.loading import load_encoder, load_recogniser
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.inference.transcription import transcribe
from speechbrain_pom.inference.windows import encode_windows, windows_are_exact

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
