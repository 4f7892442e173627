"""Linear-time token mixers as attention types of SpeechBrain's encoders.

Importing this package registers them: `attention_type: PoM` then works in any hparams file.
What loads models is imported when it is first used, with the packages for audio and text.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from speechbrain_pom import ops
from speechbrain_pom._version import __version__
from speechbrain_pom.attention import (
    attention_types,
    convert_attention,
    register,
    register_attention,
    unregister,
    unregister_attention,
)
from speechbrain_pom.nnet import (
    Fastformer,
    Mamba,
    PolynomialMixer,
    SummaryMixing,
    TokenMixer,
)
from speechbrain_pom.nnet.mixer import registered_mixers

if TYPE_CHECKING:
    from speechbrain_pom.inference import (
        SpeechEncoder,
        SpeechRecogniser,
        load_encoder,
        load_recogniser,
    )

__all__ = [
    "Fastformer",
    "Mamba",
    "PolynomialMixer",
    "SpeechEncoder",
    "SpeechRecogniser",
    "SummaryMixing",
    "TokenMixer",
    "__version__",
    "attention_types",
    "convert_attention",
    "load_encoder",
    "load_recogniser",
    "ops",
    "register",
    "register_attention",
    "unregister",
    "unregister_attention",
]

_INFERENCE = ("SpeechEncoder", "SpeechRecogniser", "load_encoder", "load_recogniser")


def __getattr__(name: str) -> object:
    if name in _INFERENCE:
        return getattr(import_module("speechbrain_pom.inference"), name)
    raise AttributeError(f"module 'speechbrain_pom' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_INFERENCE})


for _name, (_mixer, _description) in registered_mixers().items():
    register_attention(_name, _mixer, _description)
register()
