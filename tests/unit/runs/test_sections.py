"""`--attention_type` reaches every encoder of an hparams file, wherever the key stands."""

import logging
import os
import pydoc
import re
from io import StringIO
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from torch import nn

from speechbrain_pom.attention import mixer_of
from speechbrain_pom.attention.patches import LAYERS
from speechbrain_pom.encoder.describe import mixer_name
from speechbrain_pom.runs.options import node_tag, parse_command_line, read_tree
from speechbrain_pom.runs.overrides import overrides_to_yaml
from speechbrain_pom.runs.sections import encoder_sections, nested_overrides
from speechbrain_pom.utils.errors import UserError

MODELS = "speechbrain.lobes.models"
ASR = f"!new:{MODELS}.transformer.TransformerASR.TransformerASR"
SIZES = """
    tgt_vocab: 30
    input_size: 16
    d_model: 16
    nhead: 2
    num_encoder_layers: 2
    num_decoder_layers: 0
    d_ffn: 32
    causal: False
"""
INDENTED = SIZES.replace("\n    ", "\n        ")
DECODER = SIZES.replace("encoder_layers: 2", "encoder_layers: !ref <depth>").replace(
    "decoder_layers: 0", "decoder_layers: 1"
)
LM = f"""
lm_model: !new:{MODELS}.transformer.TransformerLM.TransformerLM
    vocab: 30
    d_model: 16
    nhead: 2
    num_encoder_layers: 1
    d_ffn: 32
"""
BLOCK = "{num_layers: 1, d_model: 16, nhead: 2, d_ffn: 32}"
DEFAULT = f"Transformer: {ASR}{SIZES}"
NESTED = f"{DEFAULT}    attention_type: RelPosMHAXL\n"
TOP = f"attention_type: regularMHA\n{DEFAULT}    attention_type: !ref <attention_type>\n"
# The file, and its encoders that have to get the type.
SHAPES = {
    "the key at the top": (TOP, ["Transformer"]),
    "the key in the section": (NESTED, ["Transformer"]),
    "the default of the class": (DEFAULT, ["Transformer"]),
    "through another key": (
        f"mixer: RelPosMHAXL\nTransformer: {ASR}{SIZES}    attention_type: !ref <mixer>\n",
        ["Transformer"],
    ),
    "at the top, and a section beside it": (
        f"{TOP}second: {ASR}{SIZES}",
        ["Transformer", "second"],
    ),
    "an unused key at the top": (f"attention_type: RoPEMHA\n{NESTED}", ["Transformer"]),
    "several sections": (
        f"{NESTED}intra: !new:{MODELS}.dual_path.SBConformerEncoderBlock {BLOCK}\n"
        f"inter: !new:{MODELS}.dual_path.SBTransformerBlock {BLOCK}\n",
        ["Transformer", "intra", "inter"],
    ),
    "inside of a wrapper": (
        f"wrapper: !new:{MODELS}.transformer.TransformerASR.EncoderWrapper\n"
        f"    transformer: {ASR}{INDENTED}",
        ["wrapper.transformer"],
    ),
    "inside of a list": (
        f"stack: !new:torch.nn.ModuleList\n"
        f"  - - !new:torch.nn.Linear [2, 3]\n    - {ASR}{INDENTED}",
        ["stack.0.1"],
    ),
    "inside of a plain mapping": (f"modules:\n    enc: {ASR}{INDENTED}", ["modules.enc"]),
    "merged": (
        f"base: &base\n    tgt_vocab: 30\n    input_size: 16\n    d_model: 16\n    nhead: 2\n"
        f"    num_encoder_layers: 2\n    num_decoder_layers: 0\n    d_ffn: 32\n    causal: False\n"
        f"    attention_type: RelPosMHAXL\n"
        f"one: {ASR}\n    <<: *base\ntwo: {ASR}\n    <<: *base\n",
        ["one", "two"],
    ),
    "by position": (
        f"model: !new:{MODELS}.dual_path.SBTransformerBlock\n"
        "    [1, 16, 2, 32, null, null, null, 0.1, relu, False, False, regularMHA]\n",
        ["model"],
    ),
    "a language model alone": (LM, ["lm_model"]),
    "a language model beside an encoder": (f"{LM}{NESTED}", ["Transformer"]),
    "a decoder beside an encoder": (
        f"{NESTED}decoder: !new:{MODELS}.transformer.Transformer.TransformerDecoder {BLOCK}\n",
        ["Transformer"],
    ),
    "a model of decoder layers beside an encoder": (
        f"depth: 0\n{NESTED}second: {ASR}{DECODER}",
        ["Transformer"],
    ),
    "a model of decoder layers that refers to the same key": (
        f"depth: 0\n{TOP}second: {ASR}{DECODER}    attention_type: !ref <attention_type>\n",
        ["Transformer"],
    ),
    "a model of decoder layers that refers to a key that is a reference": (
        f"kind: regularMHA\nattention_type: !ref <kind>\ndepth: 0\n{NESTED}"
        f"second: {ASR}{DECODER}    attention_type: !ref <attention_type>\n",
        ["Transformer"],
    ),
    "a copy": (f"{NESTED}again: !copy <Transformer>\n", ["Transformer", "again"]),
}
SPEC = "PoM(degree=3, expand=1)"
FULL = "PoM(degree=3, expand=1, variant='base', recompute=False, backend='auto')"


@pytest.fixture
def write(tmp_path):
    def write(text, name="x.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def build(path, arguments, way):
    """What a recipe under `run`, and what `info` and the recipes here build."""
    if way == "run":
        overrides = overrides_to_yaml(arguments, read_tree(path))
    else:
        overrides = parse_command_line([str(path), *arguments]).overrides
    with open(path, encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, overrides)


def mixers(built):
    """The mixers of each top-level key, without those of others that it holds."""
    found = {}
    for key, value in built.items():
        parts = (
            nn.ModuleList(value.values()) if isinstance(value, dict) and key != "base" else value
        )
        if isinstance(parts, nn.Module):
            layers = [part for part in parts.modules() if isinstance(part, LAYERS)]
            found[key] = {mixer_name(mixer_of(layer)) for layer in layers}
    return {key: names for key, names in found.items() if names}


@pytest.mark.parametrize("way", ["run", "options"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_option_reaches_every_encoder(shape, way, write):
    text, names = SHAPES[shape]
    built = mixers(build(write(text), [f"--attention_type={SPEC}"], way))
    keys = {name.partition(".")[0] for name in names}
    assert {key for key, found in built.items() if found == {FULL}} == keys
    assert not any(FULL in found for key, found in built.items() if key not in keys)


@pytest.mark.parametrize("way", ["run", "options"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "a copy"])
def test_each_section_has_an_option_of_its_own(shape, way, write):
    text, names = SHAPES[shape]
    others = mixers(load_hyperpyyaml(text))
    for name in names:
        built = mixers(build(write(text), [f"--{name}.attention_type", SPEC], way))
        key = name.partition(".")[0]
        assert built.pop(key) == {FULL}
        assert built == {other: found for other, found in others.items() if other != key}


def test_the_option_of_a_section_goes_before_the_one_for_all(write):
    text, _ = SHAPES["several sections"]
    arguments = ["--inter.attention_type", "hypermixing", "--attention_type", "PoM"]
    built = mixers(build(write(text), arguments, "run"))
    assert built["inter"] == {"hypermixing"}
    assert all("PoM(degree=2" in str(built[key]) for key in ("Transformer", "intra"))


@pytest.mark.parametrize("way", ["run", "options"])
@pytest.mark.parametrize(
    ("whole", "type_of_one"),
    [("{nhead: 4}", FULL), ("{attention_type: RoPEMHA, nhead: 4}", "RoPEMHA")],
)
def test_the_option_for_all_beside_a_section_as_a_mapping(whole, type_of_one, way, write):
    text, _ = SHAPES["merged"]
    built = build(write(text), [f"--one={whole}", f"--attention_type={SPEC}"], way)
    assert mixers(built) == {"one": {type_of_one}, "two": {FULL}}
    arguments = built["one"].encoder.layers[0].built_from[1]
    assert arguments["nhead"] == 4


def test_a_section_with_arguments_in_a_list_beside_the_option_for_all(write):
    text, _ = SHAPES["by position"]
    arguments = ["--model.attention_type=RoPEMHA", "--attention_type=PoM"]
    assert mixers(build(write(text), arguments, "run")) == {"model": {"RoPEMHA"}}


def test_other_keys_of_sections(write):
    path = write(NESTED)
    arguments = ["--Transformer.d_ffn=48", "--Transformer.kernel_size", "7"]
    for way in ("run", "options"):
        model = build(path, arguments, way)["Transformer"]
        assert model.encoder.layers[0].pos_ffn.ffn[0].out_features == 48


def test_a_language_model_beside_an_encoder_is_left_and_named(write, caplog):
    path = write(f"{LM}{NESTED}")
    with caplog.at_level(logging.WARNING):
        build(path, ["--attention_type=PoM"], "run")
    assert (
        "--attention_type is for the encoders: the language model lm_model keeps regularMHA, which "
        "--lm_model.attention_type changes"
    ) in caplog.text
    caplog.clear()
    build(path, ["--attention_type=PoM", "--lm_model.attention_type=regularMHA"], "run")
    assert "keeps" not in caplog.text


@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_option_nothing_changes(shape, write):
    if shape != "an unused key at the top":
        assert nested_overrides(read_tree(write(SHAPES[shape][0])), {"x": 1}) == {"x": 1}


@pytest.mark.parametrize("model", [NESTED, DEFAULT])
def test_a_key_at_the_top_that_no_model_uses_is_refused(model, write):
    path = write(f"attention_type: PoM(degree=2)\nname: !ref run_<attention_type>\n{model}{LM}")
    message = (
        "attention_type: PoM(degree=2) stands at the top of the file, but no model uses it: write "
        "`attention_type: !ref <attention_type>` into Transformer (TransformerASR), or give "
        "--attention_type for all, --Transformer.attention_type for one"
    )
    for way in ("run", "options"):
        with pytest.raises(UserError) as error:
            build(path, [], way)
        assert str(error.value) == message
        build(path, ["--Transformer.attention_type=PoM"], way)
        build(path, ["--Transformer={attention_type: PoM}"], way)


def test_a_key_at_the_top_beside_a_model_of_decoder_layers_is_refused(write):
    path = write(f"attention_type: RelPosMHAXL\ndepth: 0\nmodel: {ASR}{DECODER}{LM}")
    with pytest.raises(UserError, match=r"no model uses it: .* into model \(TransformerASR\), or"):
        build(path, [], "run")


def test_the_lines_of_the_message_are_those_that_work(write):
    path = write(f"attention_type: PoM\n{DEFAULT}    attention_type: !ref <attention_type>\n")
    assert "PoM(degree=2" in str(mixers(build(path, [], "options")))


@pytest.mark.parametrize(
    "rest",
    [
        f"{ASR}{SIZES}    attention_type: !ref <kind>\nkind: !ref <attention_type>\n",
        f"{ASR}{SIZES}    attention_type: !ref <attention_type>(2)\n",
        f"{ASR}{SIZES}\nfor_the_recipe: {{attention: !ref <attention_type>}}\n",
        f"{ASR}{SIZES}\nother: !new:torch.nn.ParameterDict\n    - kind: !ref <attention_type>\n",
        "!new:torch.nn.Linear [1, 2]\n",
    ],
)
def test_a_key_that_something_uses_is_accepted(rest, write):
    path = write(f"attention_type: PoM\nTransformer: {rest}")
    assert parse_command_line([str(path)]).overrides == {}


def test_a_key_that_says_what_is_built_anyway_is_accepted(write):
    path = write(f"attention_type: RelPosMHAXL\n{NESTED}")
    assert parse_command_line([str(path)]).overrides == {}


def test_a_logger_is_no_model_that_uses_the_key(write):
    logger = "logger: !new:collections.Counter {kind: !ref <attention_type>}\n"
    with pytest.raises(UserError, match="stands at the top of the file, but no model uses it"):
        parse_command_line([str(write(f"attention_type: PoM\n{NESTED}{logger}"))])


def test_a_file_without_such_a_model(write):
    message = "--attention_type: no section of the file builds a model that takes one"
    for text in ("lr: 1\n", f"activation: !name:{MODELS}.dual_path.SBTransformerBlock\n"):
        with pytest.raises(UserError, match=message):
            nested_overrides(read_tree(write(text)), {"attention_type": "PoM"})


@pytest.mark.parametrize("way", ["run", "options"])
@pytest.mark.parametrize("top", ["", "attention_type: regularMHA\n"])
@pytest.mark.parametrize("lm", ["", LM])
def test_a_file_whose_models_have_no_encoder_layers(lm, top, way, write):
    attention = "    attention_type: !ref <attention_type>\n" if top else ""
    path = write(f"{top}depth: 0\nmodel: {ASR}{DECODER}{attention}{lm}")
    message = (
        "--attention_type: model (TransformerASR) has no encoder layers (num_encoder_layers: 0), "
        "and decoders have attention: it is for encoders"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        build(path, ["--attention_type=PoM"], way)
    assert build(path, [], way)["model"].decoder.layers
    options = ["--depth=1", "--model.num_encoder_layers=1", "--model={num_encoder_layers: 1}"]
    for option in options:
        built = build(path, [f"--attention_type={SPEC}", option], way)
        assert mixers(built).pop("model") == {FULL}
        assert not any(FULL in names for key, names in mixers(built).items() if key != "model")


def test_a_number_of_layers_that_refers_to_itself_is_left_to_the_loader(write):
    path = write(f"depth: !ref <other>\nother: !ref <depth>\nmodel: {ASR}{DECODER}")
    overrides = nested_overrides(read_tree(path), {"attention_type": "PoM"})
    assert overrides == {"model": {"attention_type": "PoM"}}


def test_arguments_in_a_list_that_leave_the_type_out(write):
    path = write(f"model: !new:{MODELS}.dual_path.SBTransformerBlock [1, 16, 2]\n")
    with pytest.raises(UserError, match="the arguments of model stand in a list without attention"):
        build(path, ["--attention_type=PoM"], "run")


CHECKOUT = os.environ.get("SPEECHBRAIN_CHECKOUT")
NAMING = (
    sorted(
        path
        for path in (Path(CHECKOUT) / "recipes").rglob("*.yaml")
        if re.search(r"^\s*attention_type:", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    if CHECKOUT
    else []
)


@pytest.mark.skipif(not CHECKOUT, reason="set SPEECHBRAIN_CHECKOUT to a checkout of SpeechBrain")
def test_the_checkout_has_files_that_name_a_type():
    assert NAMING, f"no file under {CHECKOUT}/recipes names an attention_type"


def importable(name):
    try:
        return pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None


@pytest.mark.parametrize("path", NAMING, ids=lambda path: "/".join(path.parts[-4:]))
def test_files_of_speechbrain(path):
    """Each model is built by itself, on no device: the sizes are those of real experiments."""
    tree = read_tree(path)
    unset = {key: "x" for key, node in tree.items() if node_tag(node) == "!PLACEHOLDER"}
    sections, _ = encoder_sections(tree)
    content = path.read_text(encoding="utf-8")
    absent = [name for name in re.findall(r"!new:(\S+)", content) if importable(name) is None]
    if not sections and re.search(r"num_encoder_layers: 0\b", content):
        with pytest.raises(UserError, match="has no encoder layers"):
            nested_overrides(tree, {"attention_type": "PoM"})
        return
    if not sections and absent:
        pytest.skip(f"not installed: what {', '.join(absent)} imports")
    assert sections, "none of its sections takes a type"
    overrides = nested_overrides(tree, {"attention_type": "PoM"})
    with open(path, encoding="utf-8") as stream:
        resolved = YAML().load(resolve_references(stream, {**unset, **overrides}))
    for section in sections:
        node = resolved
        for step in section.path:
            node = node[step]
        text = StringIO()
        YAML().dump({"model": node}, text)
        with torch.device("meta"):
            built = load_hyperpyyaml(text.getvalue())["model"]
        if isinstance(built, nn.Module):
            layers = [part for part in built.modules() if isinstance(part, LAYERS)]
            assert layers
            assert all("PoM" in mixer_name(mixer_of(layer)) for layer in layers)
