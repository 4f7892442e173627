"""Linear-time token mixers as attention types of SpeechBrain's encoders.

Importing this package registers them: `attention_type: PoM` then works in any hparams file.
"""

from speechbrain_pom import ops
from speechbrain_pom.attention import (
    attention_types,
    register,
    register_attention,
    unregister,
    unregister_attention,
)
from speechbrain_pom.nnet import PolynomialMixer

__version__ = "0.1.0"
__all__ = [
    "PolynomialMixer",
    "attention_types",
    "ops",
    "register",
    "register_attention",
    "unregister",
    "unregister_attention",
]

register_attention("PoM", PolynomialMixer, "Polynomial Mixer: linear time (ICASSP 2026)")
register()
