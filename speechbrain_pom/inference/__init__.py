"""Pretrained models: loading, encoding, transcribing, exporting."""

from importlib import import_module

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.windows.overlapping import encode_windows, windows_are_exact
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.inference.speechbrain_interface import load_weights
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


def __getattr__(name: str) -> object:
    # `encoder.loading` imports this package: its names come when they are used.
    if name in ("load_encoder", "load_recogniser"):
        return getattr(import_module("speechbrain_pom.encoder.loading"), name)
    raise AttributeError(f"module 'speechbrain_pom.inference' has no attribute '{name}'")
