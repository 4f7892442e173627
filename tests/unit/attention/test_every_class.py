"""Every class of SpeechBrain that takes an attention type works with a spec, or refuses it."""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import speechbrain
import torch
from speechbrain.lobes.models import dual_path, resepformer
from speechbrain.lobes.models.transformer import Conformer, Transformer
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from torch import nn

import speechbrain_pom
from speechbrain_pom.attention import mixer_of
from speechbrain_pom.attention.hosts import REFUSING, arguments_of, is_language_model, takes_spec
from speechbrain_pom.attention.patches import LAYERS

ROOT = Path(speechbrain.__file__).parent
LENGTH = 63
FRAMES = torch.randn(2, LENGTH, 16, generator=torch.Generator().manual_seed(1))
SHARES = torch.tensor([1.0, 0.6])
TOKENS = torch.randint(1, 30, (2, LENGTH), generator=torch.Generator().manual_seed(1))
SIZES = {"d_model": 16, "nhead": 2}
LAYER = {**SIZES, "d_ffn": 32}
ASR = {**LAYER, "num_encoder_layers": 2, "num_decoder_layers": 1, "tgt_vocab": 30, "causal": False}
ST = {**ASR, "ctc_weight": 0.5, "asr_weight": 0.3, "mt_weight": 0.3}
BRANCH = {**SIZES, "csgu_linear_units": 32, "kernel_size": 7}


def translate(model):
    return [
        *model(FRAMES, TOKENS, SHARES),
        *model.forward_mt(TOKENS, TOKENS),
        model.forward_asr(FRAMES, FRAMES, TOKENS, SHARES),
    ]


def spell(model):
    return model((TOKENS, SHARES))[0]


def first(model):
    return model(FRAMES)[0]


def alone(model):
    return model(FRAMES)


# Each class: its arguments beside attention_type, and a call. None: it has no forward of its own.
WORKING = {
    "Transformer.TransformerInterface": (LAYER | {"num_encoder_layers": 2}, None),
    "Transformer.TransformerEncoder": ({**LAYER, "num_layers": 2}, first),
    "Transformer.TransformerEncoderLayer": (LAYER, first),
    "Conformer.ConformerEncoder": ({**LAYER, "num_layers": 2}, first),
    "Conformer.ConformerEncoderLayer": (LAYER, first),
    "Branchformer.BranchformerEncoder": ({**BRANCH, "num_layers": 2}, first),
    "Branchformer.BranchformerEncoderLayer": (BRANCH, first),
    "TransformerASR.TransformerASR": (
        {**ASR, "input_size": 16},
        lambda model: model(FRAMES, TOKENS, SHARES),
    ),
    "TransformerST.TransformerST": (
        {**ST, "input_size": 16, "asr_tgt_vocab": 30, "mt_src_vocab": 30},
        translate,
    ),
    "TransformerLM.TransformerLM": (
        {**LAYER, "vocab": 30, "num_encoder_layers": 2, "num_decoder_layers": 0},
        lambda model: model(TOKENS),
    ),
    "model.TransformerG2P": ({**LAYER, "num_encoder_layers": 2, "num_decoder_layers": 1}, spell),
    "dual_path.SBTransformerBlock": (
        {**LAYER, "num_layers": 2, "use_positional_encoding": True},
        alone,
    ),
    "dual_path.SBConformerEncoderBlock": ({**LAYER, "num_layers": 2}, alone),
    "resepformer.SBTransformerBlock_wnormandskip": (
        {**LAYER, "num_layers": 2, "causal": True},
        alone,
    ),
}
REFUSALS = {
    "Transformer.TransformerDecoder": {**LAYER, "num_layers": 2},
    "Transformer.TransformerDecoderLayer": LAYER,
    "Conformer.ConformerDecoder": {**LAYER, "num_layers": 2},
    "Conformer.ConformerDecoderLayer": {**LAYER, "kernel_size": 7},
    "dual_path.FastTransformerBlock": {"out_channels": 16, "num_layers": 2},
}
SPEC, MIXED = "PoM(degree=3)", "RelPosMHAXL + PoM"


def constructors():
    """`module.Class` of SpeechBrain's classes with a parameter attention_type, and their files."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "attention_type" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            functions = node.body if isinstance(node, ast.ClassDef) else ()
            for function in functions:
                if getattr(function, "name", "") == "__init__":
                    arguments = function.args
                    names = [a.arg for a in (*arguments.args, *arguments.kwonlyargs)]
                    if "attention_type" in names:
                        found[f"{path.stem}.{node.name}"] = path
    return found


CONSTRUCTORS = constructors()


@pytest.fixture
def get_class(monkeypatch):
    """The class of a name; the package of the G2P models needs others that may be absent."""
    package = ModuleType("speechbrain.lobes.models.g2p")
    package.__path__ = [str(ROOT / "lobes" / "models" / "g2p")]

    def get(name):
        path = CONSTRUCTORS[name].relative_to(ROOT.parent).with_suffix("")
        if package.__name__ not in sys.modules and "g2p" in path.parts:
            monkeypatch.setitem(sys.modules, package.__name__, package)
            monkeypatch.delitem(sys.modules, f"{package.__name__}.model", raising=False)
        return getattr(importlib.import_module(".".join(path.parts)), name.partition(".")[2])

    return get


def build(kind, name, spec):
    torch.manual_seed(0)
    arguments = dict(WORKING[name][0])
    if name == "model.TransformerG2P":
        embeddings = {"emb": nn.Embedding(50, 16), "encoder_emb": nn.Embedding(30, 16)}
        layers = {key: nn.Linear(16, 16) for key in ("char_lin", "phn_lin", "lin")}
        arguments |= {**embeddings, **layers, "out": nn.Identity()}
    return kind(attention_type=spec, **arguments).eval()


def mixers_in(model):
    layers = [part for part in model.modules() if isinstance(part, LAYERS)]
    return [type(mixer_of(layer)).__name__ for layer in layers]


def test_all_classes_are_in_the_tables():
    """A class that a new SpeechBrain brings along belongs into one of them."""
    assert set(CONSTRUCTORS) == {*WORKING, *REFUSALS}


def test_the_lists_for_hparams_files_agree_with_the_tables(get_class):
    assert all(takes_spec(get_class(name)) for name in WORKING)
    assert {get_class(name) for name in REFUSALS} == set(REFUSING)
    assert not any(takes_spec(get_class(name)) for name in REFUSALS)
    models = [name for name in WORKING if is_language_model(get_class(name))]
    assert models == ["TransformerLM.TransformerLM"]


def outputs_of(model, call):
    outputs = call(model)
    return [outputs] if torch.is_tensor(outputs) else list(outputs)


@pytest.mark.parametrize("name", WORKING)
def test_a_spec_is_built_and_computes(name, get_class):
    model = build(get_class(name), name, SPEC)
    mixers = mixers_in(model)
    assert mixers
    assert set(mixers) == {"PolynomialMixer"}
    call = WORKING[name][1]
    if call is not None:
        with torch.no_grad():
            assert all(output.isfinite().all() for output in outputs_of(model, call))


@pytest.mark.parametrize("name", [name for name in WORKING if not name.endswith("Layer")])
def test_types_by_layer(name, get_class):
    model = build(get_class(name), name, MIXED)
    mixers = mixers_in(model)
    assert mixers == ["RelPosMHAXL", "PolynomialMixer"] * (len(mixers) // 2)
    call = WORKING[name][1]
    if call is not None:
        with torch.no_grad():
            assert all(output.isfinite().all() for output in outputs_of(model, call))


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("spec", [SPEC, MIXED])
def test_a_spec_is_refused_at_construction(name, spec, get_class):
    message = "the attention spec is for encoders|use an SBTransformerBlock for attention specs"
    with pytest.raises(ValueError, match=message) as error:
        get_class(name)(attention_type=spec, **REFUSALS[name])
    assert f"attention_type {spec!r}" in str(error.value)


def test_types_of_fast_transformers_are_left_to_it():
    with pytest.raises(ImportError, match="fast_transformers"):
        dual_path.FastTransformerBlock("linear", 16)


def test_a_decoder_alone_has_no_place_for_a_spec():
    message = "the TransformerLM has no encoder layers, and decoders have attention"
    with pytest.raises(ValueError, match=message):
        TransformerLM(30, 16, 2, num_encoder_layers=0, num_decoder_layers=2, attention_type="PoM")


@pytest.mark.parametrize(
    "kind",
    [
        dual_path.SBTransformerBlock,
        resepformer.SBTransformerBlock_wnormandskip,
        TransformerLM,
    ],
)
@pytest.mark.parametrize("spec", ["RelPosMHAXL", "RelPosMHAXL*2"])
def test_classes_without_relative_positions_say_so(kind, spec):
    """SpeechBrain alone builds them, and they fail at their first call."""
    arguments = dict(WORKING[f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"][0])
    message = "gives it no relative positions; choose another type"
    with pytest.raises(ValueError, match=message):
        kind(attention_type=spec, **arguments)


@pytest.mark.parametrize("spec", ["RoPEMHA", "hypermixing", "RelPosMHAXL + RoPEMHA", "PoM"])
def test_conformer_block_adds_sines_only_for_types_that_need_them(spec):
    """Against the same encoder by itself; SpeechBrain's own block refuses these types."""
    arguments = {**LAYER, "num_layers": 2, "dropout": 0.0}
    torch.manual_seed(3)
    block = dual_path.SBConformerEncoderBlock(attention_type=spec, **arguments).eval()
    torch.manual_seed(3)
    encoder = Conformer.ConformerEncoder(attention_type=spec, **arguments).eval()
    positions = Transformer.PositionalEncoding(16)(FRAMES) if spec == "PoM" else 0.0
    with torch.no_grad():
        torch.testing.assert_close(block(FRAMES), encoder(FRAMES + positions)[0])
        assert block(FRAMES[:1].repeat(1, 41, 1)).shape == (1, 41 * LENGTH, 16)  # over 2500


@pytest.mark.parametrize("spec", ["regularMHA", "RelPosMHAXL"])
def test_conformer_block_with_its_own_types_is_speechbrains(spec, without_plugin):
    arguments = {**LAYER, "num_layers": 2, "dropout": 0.0}
    outputs = []
    for attention_type in (spec, spec, f"{spec}*2"):
        torch.manual_seed(3)
        block = dual_path.SBConformerEncoderBlock(attention_type=attention_type, **arguments)
        outputs.append(block.eval()(FRAMES))
        speechbrain_pom.register()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


class Keeping(nn.Module):
    """A mixer whose first numbers have a meaning."""

    keeps_own_initialisation = True

    def __init__(self, d_model):
        super().__init__()
        self.start = nn.Parameter(torch.empty(d_model, d_model))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.eye_(self.start)

    def forward(self, query, key=None, value=None, **_):
        return query @ self.start, None


class Derived(TransformerASR):
    """A recipe's own model, which draws its matrices once more."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self._reset_params()

    def _reset_params(self):
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_normal_(weight)


def test_models_that_draw_their_matrices_anew_keep_those_of_such_mixers(get_class, registered):
    registered("Keeping", Keeping)
    names = ["TransformerASR.TransformerASR", "TransformerST.TransformerST"]
    names += ["TransformerLM.TransformerLM", "model.TransformerG2P"]
    models = [build(get_class(name), name, "Keeping") for name in names]
    models.append(Derived(attention_type="Keeping", input_size=16, **ASR))
    for model in models:
        kept = [part for part in model.modules() if isinstance(part, Keeping)]
        assert kept, type(model)
        assert all(torch.equal(part.start, torch.eye(16)) for part in kept), type(model)


def test_arguments_through_keyword_arguments():
    assert takes_spec(Derived)
    assert "attention_type" in arguments_of(Derived)[0]

    class Closed(TransformerASR):
        def __init__(self, size):
            super().__init__(**ASR, input_size=size)

    assert list(arguments_of(Closed)[0]) == ["size"]
    assert not takes_spec(Closed)
    assert not takes_spec("a text")
    assert arguments_of(nn.Module)[1]
    assert arguments_of(type) == ({}, True)
    assert takes_spec(lambda attention_type: None)
