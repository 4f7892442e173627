"""Token mixers as modules with the signature of SpeechBrain's attention."""

from speechbrain_pom.nnet.polynomial_mixer import PolynomialMixer
from speechbrain_pom.nnet.weighted_sum import WeightedSum

__all__ = ["PolynomialMixer", "WeightedSum"]
