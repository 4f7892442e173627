"""Token mixers as modules with the signature of SpeechBrain's attention."""

from speechbrain_pom.nnet.fastformer import Fastformer
from speechbrain_pom.nnet.mamba import Mamba
from speechbrain_pom.nnet.polynomial_mixer import PolynomialMixer
from speechbrain_pom.nnet.summary_mixing import SummaryMixing
from speechbrain_pom.nnet.weighted_sum import WeightedSum

__all__ = ["Fastformer", "Mamba", "PolynomialMixer", "SummaryMixing", "WeightedSum"]
