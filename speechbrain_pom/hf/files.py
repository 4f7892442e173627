"""The files of an export that transformers reads, beside those that are there anyway."""

from pathlib import Path

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.hf.configuration import PoMSpeechConfig
from speechbrain_pom.hf.feature_extraction import PoMSpeechFeatureExtractor
from speechbrain_pom.hf.tokenization import PoMSpeechTokenizer
from speechbrain_pom.inference.recogniser import SpeechRecogniser


def write_config(folder: Path, model: SpeechEncoder | SpeechRecogniser, architecture: str) -> None:
    """Write config, feature extractor and tokenizer of a model into a folder.

    `architecture` is YAML text with the sections encoder and perhaps head; of a recogniser the
    units are in the folder already.
    """
    tuned = isinstance(model, SpeechRecogniser)
    encoder = model.encoder if tuned else model
    config = PoMSpeechConfig.of(encoder, architecture, model.units.size if tuned else None)
    config.architectures = ["PoMSpeechForCTC" if tuned else "PoMSpeechModel"]
    config.save_pretrained(folder)
    PoMSpeechFeatureExtractor(sampling_rate=encoder.sample_rate).save_pretrained(folder)
    if tuned:
        PoMSpeechTokenizer(str(folder / "units.json")).save_pretrained(folder)
