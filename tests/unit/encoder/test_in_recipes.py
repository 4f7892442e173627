"""Encoders in the hparams files, checkpoints and Pretrainers of SpeechBrain's own recipes."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_pom.__main__ import main
from speechbrain_pom.inference import load_encoder
from speechbrain_pom.utils.errors import UserError


@pytest.fixture
def wavs():
    return 0.1 * torch.randn(2, 8000)


def test_in_a_hyperpyyaml_file(tmp_path, pretrained_run, wavs):
    text = f"encoder: !apply:speechbrain_pom.load_encoder\n    path: {pretrained_run}\n"
    hparams = load_hyperpyyaml(text + "    layers: sum\n")
    states, _ = load_encoder(pretrained_run)(wavs, layers=[0, 1, 2])
    assert torch.allclose(hparams["encoder"](wavs)[0], sum(states) / 3, atol=1e-6)


PRETRAINER_YAML = """
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
normalize: !new:speechbrain.processing.features.InputNormalization
CNN: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    input_shape: [8, 10, 80]
    num_blocks: 2
    num_layers_per_block: 1
    out_channels: [4, 32]
    kernel_sizes: [3, 3]
    strides: [2, 2]
    residuals: [False, False]
Transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    tgt_vocab: 1
    input_size: 640
    d_model: 16
    nhead: 2
    num_encoder_layers: 2
    num_decoder_layers: 0
    d_ffn: 32
    activation: !name:torch.nn.GELU
    conformer_activation: !name:torch.nn.GELU
    encoder_module: conformer
    attention_type: PoM
    normalize_before: True
    causal: False
encoder: !new:speechbrain_pom.SpeechEncoder
    compute_features: !ref <compute_features>
    normalize: !ref <normalize>
    front_end: !ref <CNN>
    transformer: !ref <Transformer>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables: {encoder: !ref <encoder>}
"""


@pytest.mark.parametrize("exported", [False, True])
def test_with_speechbrains_pretrainer(tmp_path, pretrained_run, wavs, exported):
    expected = load_encoder(pretrained_run)
    if exported:
        assert main(["export", str(pretrained_run), str(tmp_path / "exported")]) == 0
        text = (
            PRETRAINER_YAML + f"    paths: {{encoder: {tmp_path}/exported/encoder.safetensors}}\n"
        )
        text += "    custom_hooks: {encoder: !name:speechbrain_pom.inference.load_weights }\n"
    else:
        torch.save(expected.state_dict(), tmp_path / "encoder.ckpt")
        text = PRETRAINER_YAML + f"    paths: {{encoder: {tmp_path}/encoder.ckpt}}\n"
    hparams = load_hyperpyyaml(text)
    encoder = hparams["encoder"].eval()
    with pytest.raises(UserError, match="no statistics of its features"):
        encoder(wavs)
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    assert torch.equal(encoder(wavs)[0], expected(wavs)[0])


def test_in_a_speechbrain_checkpointer(tmp_path, pretrained_run, make_run, wavs):
    """Fine-tuned inside another recipe, it is saved and recovered with its statistics."""
    make_run(tmp_path / "other", seed=9)
    encoder = load_encoder(pretrained_run)
    checkpointer = Checkpointer(tmp_path / "save", {"encoder": encoder})
    checkpointer.save_checkpoint()
    expected, _ = encoder(wavs)
    other = load_encoder(tmp_path / "other")
    assert not torch.equal(other(wavs)[0], expected)
    checkpointer.recoverables["encoder"] = other
    checkpointer.recover_if_possible()
    assert torch.equal(other(wavs)[0], expected)
