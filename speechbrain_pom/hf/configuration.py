"""What a transformers config says of a model: its architecture, and the sizes of it."""

from __future__ import annotations

from transformers import PretrainedConfig

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.encoder.architecture import build_parts, checked_architecture
from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder


class PoMSpeechConfig(PretrainedConfig):
    """The config of a speech encoder, perhaps with a CTC head.

    Arguments
    ---------
    architecture : str, optional
        YAML with the sections encoder and perhaps head, from
        `speechbrain_pom.encoder.architecture.read_architecture`. It is checked before anything is
        built: it can name modules, and no other code.
    layers : str, int or list of int
        What `last_hidden_state` is: see `SpeechEncoder`.
    vocab_size : int, optional
        Outputs of the CTC head.
    ctc_loss_reduction : str
        "mean" (over the labels of each utterance, then over utterances) or "sum".
    **options
        Options of every config.

    Example
    -------
    >>> from speechbrain_pom.encoder.architecture import read_architecture
    >>> text = read_architecture("hparams/pom.yaml", {"d_model": 16, "d_ffn": 16})
    >>> config = PoMSpeechConfig.of(PoMSpeechConfig(architecture=text).build()["encoder"], text)
    >>> config.hidden_size, config.num_hidden_layers, config.inputs_to_logits_ratio
    (16, 12, 640)
    """

    model_type = "speechbrain_pom"

    def __init__(
        self,
        architecture: str | None = None,
        layers: Layers = "last",
        vocab_size: int | None = None,
        ctc_loss_reduction: str = "mean",
        **options,
    ) -> None:
        self.architecture = architecture
        self.layers = layers
        self.vocab_size = vocab_size
        self.ctc_loss_reduction = ctc_loss_reduction
        options.setdefault("pad_token_id", Units.blank_index)
        super().__init__(**options)

    @classmethod
    def of(
        cls, encoder: SpeechEncoder, architecture: str, vocab_size: int | None = None
    ) -> PoMSpeechConfig:
        """The config of an encoder.

        Arguments
        ---------
        encoder : SpeechEncoder
        architecture : str
            As for the class.
        vocab_size : int, optional
            Outputs of the head, if there is one.

        Returns
        -------
        PoMSpeechConfig
        """
        return cls(
            architecture=architecture,
            layers="sum" if encoder.layers == "sum" else "last",
            vocab_size=vocab_size,
            hidden_size=encoder.d_model,
            num_hidden_layers=encoder.num_layers,
            sampling_rate=encoder.sample_rate,
            inputs_to_logits_ratio=encoder.samples_per_frame,
        )

    def build(self) -> dict:
        """The encoder, and the head if there is one, with random weights.

        Raises
        ------
        UserError
            If the architecture is none, or names anything but modules of models.
        """
        text = checked_architecture(self.architecture or "", "config.json")
        return build_parts(text, "config.json", self.layers)
