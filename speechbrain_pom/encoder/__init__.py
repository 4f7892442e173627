"""The speech encoder: features, front end, Transformer, lengths; building and loading it."""

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.front_ends import FrontEnd

__all__ = ["FrontEnd", "SpeechEncoder"]
