"""Token mixers as modules with the signature of SpeechBrain's attention."""

from speechbrain_pom.nnet.polynomial_mixer import PolynomialMixer

__all__ = ["PolynomialMixer"]
