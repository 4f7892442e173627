"""Doors to Hugging Face: importing this package makes its models known to transformers.

`AutoModel`, `AutoModelForCTC`, `AutoFeatureExtractor`, `AutoTokenizer` and
`pipeline("automatic-speech-recognition")` then load what
`python -m speechbrain_pom export --format transformers` wrote. It needs the extra [hf].
"""

try:
    import transformers
except ModuleNotFoundError as error:  # pragma: no cover - one line for those without the extra
    raise ModuleNotFoundError(
        "speechbrain_pom.hf needs transformers: pip install 'speechbrain-pom[hf]'", name=error.name
    ) from error

from speechbrain_pom.hf.configuration import PoMSpeechConfig
from speechbrain_pom.hf.feature_extraction import PoMSpeechFeatureExtractor
from speechbrain_pom.hf.modeling import PoMSpeechForCTC, PoMSpeechModel
from speechbrain_pom.hf.tokenization import PoMSpeechTokenizer

__all__ = [
    "PoMSpeechConfig",
    "PoMSpeechFeatureExtractor",
    "PoMSpeechForCTC",
    "PoMSpeechModel",
    "PoMSpeechTokenizer",
]

_name = PoMSpeechConfig.model_type
transformers.AutoConfig.register(_name, PoMSpeechConfig, exist_ok=True)
transformers.AutoModel.register(PoMSpeechConfig, PoMSpeechModel, exist_ok=True)
transformers.AutoModelForCTC.register(PoMSpeechConfig, PoMSpeechForCTC, exist_ok=True)
transformers.AutoFeatureExtractor.register(
    PoMSpeechConfig, PoMSpeechFeatureExtractor, exist_ok=True
)
transformers.AutoTokenizer.register(
    PoMSpeechConfig, slow_tokenizer_class=PoMSpeechTokenizer, exist_ok=True
)
