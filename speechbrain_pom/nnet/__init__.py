"""Token mixers as modules with the call of SpeechBrain's attention; each is one file.

Every module of this folder is imported, so that its `register_mixer` takes effect.
"""

import importlib
import pkgutil

from speechbrain_pom.nnet.fastformer import Fastformer
from speechbrain_pom.nnet.mamba import Mamba
from speechbrain_pom.nnet.mixer import TokenMixer
from speechbrain_pom.nnet.polynomial import PolynomialMixer
from speechbrain_pom.nnet.summary_mixing import SummaryMixing
from speechbrain_pom.nnet.weighted_sum import WeightedSum

__all__ = [
    "Fastformer",
    "Mamba",
    "PolynomialMixer",
    "SummaryMixing",
    "TokenMixer",
    "WeightedSum",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
