"""The feature extractor: waveforms of a batch padded on the right, and their mask."""

from transformers import Wav2Vec2FeatureExtractor


class PoMSpeechFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Pads waveforms with zeros and marks them; the features themselves are part of the model.

    The model normalises its own features, so the waveforms are taken as they are.

    Arguments
    ---------
    feature_size : int
        Values per sample.
    sampling_rate : int
        In Hz.
    padding_value : float
        Of what follows an utterance; the model does not read it.
    return_attention_mask : bool
        Whether the mask is given; without it all samples count.
    do_normalize : bool
        Whether waveforms get mean 0 and variance 1, which no model of this package is trained with.
    **options
        Options of every feature extractor.

    Example
    -------
    >>> extract = PoMSpeechFeatureExtractor()
    >>> wavs = [torch.ones(4).numpy(), torch.ones(2).numpy()]
    >>> batch = extract(wavs, sampling_rate=16000, padding=True, return_tensors="pt")
    >>> batch["attention_mask"]
    tensor([[1, 1, 1, 1],
            [1, 1, 0, 0]], dtype=torch.int32)
    """

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        return_attention_mask: bool = True,
        do_normalize: bool = False,
        **options,
    ) -> None:
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            do_normalize=do_normalize,
            **options,
        )
