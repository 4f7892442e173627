"""wav2vec 2.0 against numbers of SpeechBrain's modules (source: tests/data/golden/README.md)."""

import numpy as np
import pytest
import torch
from torch import nn

from speechbrain_pom.encoder import SpeechEncoder, Waveform
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.objectives.wav2vec2 import (
    GumbelQuantizer,
    MaskVector,
    Wav2Vec2,
    contrastive_loss,
    diversity_loss,
    find_masked,
    perplexities,
)
from speechbrain_pom.utils.errors import UserError
from tests.helpers.encoders import build_transformer
from tests.unit.nnet.test_golden import GOLDEN, assert_same, load, published_state

FOLDER = GOLDEN / "wav2vec2"

# Where SpeechBrain's parameters live in ours, written out independently of the package's rules.
QUANTIZER = {
    "quantiser.vars": "codebook",
    "quantiser.weight_proj.weight": "to_logits.weight",
    "quantiser.weight_proj.bias": "to_logits.bias",
    "proj.weight": "proj.weight",
    "proj.bias": "proj.bias",
}
FRONT_END = {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
for number in (0, 1):
    block = f"extractor.convblock_{number}.convs"
    FRONT_END[f"{block}.conv_0.conv.weight"] = f"convs.{number}.weight"
    FRONT_END[f"{block}.norm_0.norm.weight"] = f"norms.{number}.weight"
    FRONT_END[f"{block}.norm_0.norm.bias"] = f"norms.{number}.bias"


def assert_gradients(module, golden, our_names, prefix=""):
    """Every parameter's gradient is the expected one."""
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    for theirs, ours in our_names.items():
        expected = golden[f"grad/{prefix}{theirs}"]
        assert_same(gradients.pop(ours).view(expected.shape), expected)
    assert not gradients


@pytest.mark.parametrize("name", ["contrastive", "contrastive_ragged"])
def test_contrastive_loss(name):
    golden = load(FOLDER / f"{name}.npz")
    x, y = (golden[key].requires_grad_() for key in "xy")
    loss_sum, accuracy = contrastive_loss(x, y, golden["negatives"], golden["temperature"])
    loss_sum.backward()
    assert_same(loss_sum.detach(), golden["loss_sum"])
    assert_same(accuracy, golden["accuracy"])
    assert_same(x.grad, golden["grad_x"])
    assert_same(y.grad, golden["grad_y"])


def test_diversity_loss():
    golden = load(FOLDER / "diversity.npz")
    logits = golden["logits"].requires_grad_()
    loss = diversity_loss(logits)
    loss.backward()
    assert_same(loss.detach(), golden["diversity_loss"])
    assert_same(logits.grad, golden["grad_logits"])
    soft = logits.detach().softmax(-1).mean(0)
    assert_same(perplexities(soft).sum(), golden["prob_perplexity"])
    hard = nn.functional.one_hot(logits.argmax(-1), 5).double().mean(0)
    assert_same(perplexities(hard).sum(), golden["code_perplexity"])


@pytest.mark.parametrize("name", ["quantizer_eval", "quantizer_noise"])
def test_quantizer(name):
    golden = load(FOLDER / f"{name}.npz")
    groups, num_codes = int(golden["groups"]), int(golden["num_vars"])
    quantizer = GumbelQuantizer(10, num_codes, groups, code_size=4, output_size=8).double()
    quantizer.load_state_dict(published_state(golden), strict=True)
    x = golden["x"].requires_grad_()
    noise = golden["gumbel"].flatten(0, 1) if "gumbel" in golden else None
    found = quantizer(x.flatten(0, 1), noise, golden["temperature"])
    diversity = diversity_loss(found.logits)
    loss = (found.targets * golden["loss_weight"].flatten(0, 1)).sum()
    (loss + golden["diversity_weight"] * diversity).backward()
    assert torch.equal(found.codes, golden["codes"].flatten(0, 1))
    assert_same(found.targets.detach(), golden["targets"].flatten(0, 1))
    assert_same(diversity.detach(), golden["diversity_loss"])
    assert_same(x.grad, golden["grad_x"])
    assert_gradients(quantizer, golden, QUANTIZER)


def test_front_end():
    golden = load(FOLDER / "front_end.npz")
    front_end = ValidConvolutions(8, channels=[10, 12]).double()
    front_end.load_state_dict(published_state(golden), strict=True)
    feats = golden["feats"].requires_grad_()
    latents = front_end(feats, torch.tensor([29, 29]))
    (latents * golden["loss_weight"]).sum().backward()
    assert_same(latents.detach(), golden["latents"])
    assert_same(feats.grad, golden["grad_feats"])
    assert_gradients(front_end, golden, FRONT_END)


def tiny_encoder(d_model=16):
    """Of float64, without dropout; its front end is 10 wide."""
    options = {"num_layers": 1, "d_ffn": 16, "dropout": 0.0}
    transformer = build_transformer("SummaryMixing", 10, d_model, **options)
    front_end = ValidConvolutions(1, channels=[10], kernel_sizes=[10], strides=[5])
    return SpeechEncoder(Waveform(), None, front_end, transformer).double()


def test_input_of_the_first_layer():
    """Projection, mask vector, positions: hidden state 0 of the encoder itself."""
    golden = load(FOLDER / "context_input.npz")
    encoder, vector = tiny_encoder(), MaskVector(16).double()
    encoder.transformer.positional_encoding.pe = golden["positions"].unsqueeze(0)
    projection = encoder.transformer.custom_src_module.layers[0].w
    with torch.no_grad():
        vector.weight.copy_(golden["param/mask_emb"])
        for kind in ("weight", "bias"):
            getattr(projection, kind).copy_(golden[f"param/input_projector.{kind}"])
    latents = golden["latents"].requires_grad_()
    num_frames = torch.tensor([20, 20, 20])
    state = encoder.contextualise(
        latents, num_frames, layers=0, mask=golden["mask"], mask_vector=vector()
    )
    (state * golden["loss_weight"]).sum().backward()
    assert_same(state.detach(), golden["output"])
    assert_same(latents.grad, golden["grad_latents"])
    assert_same(vector.weight.grad, golden["grad/mask_emb"])
    for kind in ("weight", "bias"):
        expected = golden[f"grad/input_projector.{kind}"]
        assert_same(getattr(projection, kind).grad, expected)


def test_objective():
    """The whole loss, from front-end frames and context to the gradients of all parameters."""
    golden = load(FOLDER / "objective.npz")
    quantizer = GumbelQuantizer(10, num_codes=5, groups=2, code_size=4, output_size=8)
    objective = Wav2Vec2(
        tiny_encoder(),
        quantizer,
        num_negatives=6,
        contrastive_temperature=float(golden["logit_temperature"]),
        diversity_weight=float(golden["diversity_weight"]),
    ).double()
    state = published_state(golden)
    quantizer.load_state_dict(
        {k.removeprefix("quantizer."): v for k, v in state.items() if k.startswith("quantizer.")}
    )
    linear = {kind: state[f"feat_proj.{kind}"] for kind in ("weight", "bias")}
    objective.linear.load_state_dict(linear)
    masked = find_masked(golden["mask"].numpy(), list("abc"), 6, seed=1, epoch=1)
    masked = masked._replace(negatives=golden["negatives"])
    latents, context = (golden[key].requires_grad_() for key in ("latents", "context"))
    noise, temperature = golden["gumbel"].flatten(0, 1), float(golden["quantizer_temperature"])

    found, quantized = objective.contrast(context, latents, masked, noise, temperature)
    diversity = diversity_loss(quantized.logits)
    loss = found.loss_sum + objective.diversity_weight * int(golden["num_masked"]) * diversity
    loss.backward()

    assert_same(quantized.targets.detach(), golden["targets"].flatten(0, 1))
    assert_same(found.loss_sum.detach(), golden["contrastive_sum"])
    assert_same(found.num_correct.double() / 33, golden["accuracy"])
    assert_same(diversity.detach(), golden["diversity_loss"])
    assert_same(loss.detach(), golden["loss"])
    assert_same(latents.grad, golden["grad_latents"])
    assert_same(context.grad, golden["grad_context"])
    assert_gradients(quantizer, golden, QUANTIZER, prefix="quantizer.")
    assert_gradients(
        objective.linear, golden, {kind: kind for kind in ("weight", "bias")}, prefix="feat_proj."
    )


def test_the_flat_form_is_the_batched_one():
    golden = load(FOLDER / "contrastive.npz")
    arguments = [golden[key] for key in ("x", "y", "negatives")]
    flat = [array.flatten(0, 1) for array in arguments]
    flat[2] = flat[2] + 11 * torch.arange(3).repeat_interleave(11).unsqueeze(1)
    batched = contrastive_loss(*arguments, 0.1)
    assert all(map(torch.equal, contrastive_loss(*flat, 0.1), batched)) or np.allclose(
        contrastive_loss(*flat, 0.1), batched, rtol=1e-12
    )


def test_a_parameter_that_nothing_uses_is_left_out():
    """SpeechBrain's checkpoints hold `max_ent`."""
    state = published_state(load(FOLDER / "quantizer_eval.npz"))
    state["quantiser.max_ent"] = torch.tensor(1.0)
    GumbelQuantizer(10, 5, 2, code_size=4, output_size=8).load_state_dict(state, strict=True)
    state["quantiser.other"] = torch.tensor(1.0)
    with pytest.raises(RuntimeError, match=r"quantiser\.other"):
        GumbelQuantizer(10, 5, 2, code_size=4, output_size=8).load_state_dict(state, strict=True)


def test_sizes_of_a_quantizer_are_checked():
    with pytest.raises(UserError, match="num_codes = 0: give a whole number of at least 1"):
        GumbelQuantizer(10, num_codes=0)
