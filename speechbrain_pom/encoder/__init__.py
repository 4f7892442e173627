"""The speech encoder: features, front end, Transformer, lengths; building and loading it."""

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.features import Waveform
from speechbrain_pom.encoder.front_ends import FrontEnd
from speechbrain_pom.encoder.loading import load_encoder
from speechbrain_pom.encoder.start import encoder_section

__all__ = ["FrontEnd", "SpeechEncoder", "Waveform", "encoder_section", "load_encoder"]
