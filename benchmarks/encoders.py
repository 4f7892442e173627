#!/usr/bin/env python3
"""The encoders that are compared: widths with equal parameters, checks, and one pass of each.

As a script (`--worker TASK`) it is the fresh process that `measuring.Worker` starts.
"""

import contextlib
import sys
from typing import NamedTuple

import torch
from measuring import peak_memory_mib, release_memory, serve, timed
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from torch import nn

import speechbrain_pom
from speechbrain_pom.attention import parse_spec

FRAMES_PER_SECOND = 25  # 10 ms hop, stride 4
INPUT_SIZE = 640  # of the encoder: what the convolutional front end puts out
FLOOR = "none"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MODES = {
    "infer": "inference",
    "forward": "forward pass with its graph kept, as published",
    "train": "forward and backward pass",
}
TOLERANCE = 1e-4  # relative, fp32; real leaks and errors are above 1e-3


class Size(NamedTuple):
    """A model size: layers, and the published width of each mixer (d_model)."""

    num_layers: int
    d_ffn: int
    nhead: int
    widths: dict


# PoM for speech, its table of settings. The width of PoM large is not published: the one with the
# parameters of RelPosMHAXL. "small" is the demo's model; the floor has the width of PoM.
SIZES = {
    "base": Size(
        12,
        2048,
        8,
        {
            "PoM": 488,
            "RelPosMHAXL": 576,
            "RoPEMHA": 576,
            "regularMHA": 576,
            "SummaryMixing": 632,
            "hypermixing": 672,
            "Fastformer": 616,
            "Mamba": 474,
            FLOOR: 488,
        },
    ),
    "large": Size(
        24,
        2048,
        8,
        {
            "PoM": 688,
            "RelPosMHAXL": 848,
            "RoPEMHA": 848,
            "regularMHA": 848,
            "SummaryMixing": 976,
            "hypermixing": 1048,
            "Fastformer": 920,
            "Mamba": 678,
            FLOOR: 688,
        },
    ),
    "small": Size(4, 576, 4, {"PoM": 144, FLOOR: 144}),
}


class NoMixer(nn.Module):
    """Leaves the mixer out: a zero that broadcasts, for the residual connection to add."""

    def __init__(self, d_model):
        super().__init__()

    def forward(self, query, key=None, value=None, **_):
        """No frame learns of another one."""
        return query.new_zeros(1, 1, 1), None


speechbrain_pom.register_attention(FLOOR, NoMixer, "the mixers left out: the floor")


def default_mixers():
    """Every attention type there is, the floor last."""
    return [name for name in speechbrain_pom.attention_types() if name != FLOOR] + [FLOOR]


def build(spec, size, d_model):
    """The Conformer encoder of the paper with an attention spec."""
    return TransformerASR(
        tgt_vocab=1,
        input_size=INPUT_SIZE,
        d_model=d_model,
        nhead=SIZES[size].nhead,
        num_encoder_layers=SIZES[size].num_layers,
        num_decoder_layers=0,
        d_ffn=SIZES[size].d_ffn,
        activation=nn.GELU,
        conformer_activation=nn.GELU,
        encoder_module="conformer",
        attention_type=spec,
        normalize_before=True,
        causal=False,
    )


def count_parameters(spec, size, d_model):
    """Parameters of an encoder, without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(spec, size, d_model).parameters())


def choose_d_model(spec, size):
    """The published width of a mixer; for any other spec the one with PoM's parameters.

    Raises
    ------
    ValueError
        If the spec cannot be read.
    """
    parse_spec(spec, SIZES[size].num_layers)
    widths = SIZES[size].widths
    if spec in widths:
        return widths[spec]
    wanted = count_parameters("PoM", size, widths["PoM"])
    step = 2 * SIZES[size].nhead  # heads of equal, even width
    low, high = 1, 256
    while high - low > 1:  # parameters grow with the width: low has too few, high enough
        middle = (low + high) // 2
        enough = count_parameters(spec, size, step * middle) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    error = {n: abs(count_parameters(spec, size, step * n) - wanted) for n in (low, high)}
    return step * min(error, key=error.get)


def find_error(encoder, spec, device="cpu", dtype="fp32"):
    """What is wrong with an encoder in eval mode, in words; None if nothing is.

    Padding must change nothing (SpeechBrain's own types alone leak it, and are not asked), PoM
    must be its definition, and the output must be finite in the dtype of the benchmark.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():  # zero biases would hide leaks
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        frames = torch.randn(2, 50, INPUT_SIZE, device=device)
        batched = encoder.encode(frames, torch.tensor([1.0, 0.74], device=device))
        alone = encoder.encode(frames[1:, :37])
        with autocast(device, dtype):
            finite = torch.isfinite(encoder.encode(frames)).all()
        if not finite:
            return f"the output is not finite in {dtype}"
        layers = parse_spec(spec, len(encoder.encoder.layers))
        leak = relative_error(batched[1:, :37], alone)
        if leak > TOLERANCE and not all(layer.is_builtin for layer in layers):
            return f"an utterance alone and in a batch differ by {leak:.1e}"
        mixers = [m for m in encoder.modules() if isinstance(m, speechbrain_pom.PolynomialMixer)]
        error = pom_error(mixers[0], device) if mixers else 0.0
    return f"PoM and its definition differ by {error:.1e}" if error > TOLERANCE else None


def relative_error(found, expected):
    """Largest difference over the largest value."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def pom_error(mixer, device):
    """Relative error of the fast path against the definition, on a padded batch."""
    frames = torch.randn(2, 700, mixer.d_model, device=device)
    padding = torch.arange(700, device=device) >= torch.tensor([[700], [431]], device=device)
    poly = [(proj.weight, proj.bias) for proj in mixer.poly_proj]
    gate = [(proj.weight, proj.bias) for proj in mixer.gate_proj]
    fast, slow = (
        speechbrain_pom.ops.polynomial_mix(
            frames,
            poly,
            gate,
            mixer.out_proj.weight,
            mixer.out_proj.bias,
            degree=mixer.degree,
            activation=mixer.activation,
            key_padding_mask=padding,
            backend=backend,
        )
        for backend in ("auto", "reference")
    )
    return relative_error(fast, slow)


def autocast(device, dtype):
    """Mixed precision as in training: weights stay in fp32."""
    if dtype == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, DTYPES[dtype])


def make_pass(encoder, task, num_frames):
    """One pass of a mode over random frames, as a function without arguments."""
    frames = torch.randn(task["batch"], num_frames, INPUT_SIZE, device=task["device"])

    def run():
        with torch.inference_mode(task["mode"] == "infer"):
            with autocast(task["device"], task["dtype"]):
                output = encoder.encode(frames)
            if task["mode"] == "train":
                output.float().square().mean().backward()
        return output

    return run


def prepare(task):
    """The worker of a task: first the check or the memory, then times."""
    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    encoder = build(task["spec"], task["size"], task["d_model"]).to(task["device"])
    if task["mode"] == "check":
        how = task["spec"], task["device"], task["dtype"]
        return lambda: {"problem": find_error(encoder.eval(), *how)}
    encoder.train(task["mode"] != "infer")
    make_pass(encoder, task, num_frames=FRAMES_PER_SECOND)()  # libraries and weights are in memory
    encoder.zero_grad(set_to_none=True)
    release_memory(task["device"])
    one_pass = make_pass(encoder, task, task["length_s"] * FRAMES_PER_SECOND)
    # Inference leaves little behind on a CPU. Other passes give their memory back, for those of
    # the other mixers, and get it again in a pass that is not timed.
    gives_back = task["mode"] != "infer" or task["device"] == "cuda"

    def passes():
        reply = {"memory_mib": peak_memory_mib(one_pass, task["device"])}
        while True:
            encoder.zero_grad(set_to_none=True)
            if gives_back:
                release_memory(task["device"])
            yield reply
            if gives_back:
                one_pass()
                encoder.zero_grad(set_to_none=True)
            reply = {"time_s": timed(one_pass, task["device"])}

    return passes().__next__


if __name__ == "__main__" and sys.argv[1:2] == ["--worker"]:
    serve(prepare)
