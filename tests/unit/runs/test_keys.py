"""Keys of the command line that stand inside of sections."""

import pytest
from ruamel.yaml import YAML

from speechbrain_pom.runs.keys import check_apart, find_path, put, unknown_key_message
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT

TREE = YAML().load("""
d_ffn: 64
a.b: 1
layer: !new:torch.nn.Linear
    in_features: 3
    out_features: 2
by_position: !new:torch.nn.Linear [3, 2]
open: !new:torch.nn.Module
plain: {rate: 1, inner: {deep: [1, {x: 2}]}}
modules:
    layer: !ref <layer>
absent: !new:no.such.Thing {size: 1}
of_another_file: {}
""")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("d_ffn", ("d_ffn",)),
        ("a.b", ("a.b",)),
        ("unknown", ("unknown",)),
        ("layer.in_features", ("layer", "in_features")),
        ("layer.bias", ("layer", "bias")),
        ("by_position.out_features", ("by_position", 1)),
        ("by_position.0", ("by_position", 0)),
        ("plain.inner.deep.1.x", ("plain", "inner", "deep", 1, "x")),
        ("absent.size", ("absent", "size")),
        ("of_another_file.size", ("of_another_file", "size")),
        ("of_another_file.part.size", ("of_another_file", "part.size")),
    ],
)
def test_where_keys_stand(key, path):
    assert find_path(key, TREE) == path


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "layer.in_featurs",
            "unknown option --layer.in_featurs: did you mean --layer.in_features? (--help lists "
            "all)",
        ),
        ("layer.zzz", "unknown option --layer.zzz (--help lists all)"),
        ("d_ffn.x", "unknown option --d_ffn.x"),
        ("layr.bias", "unknown option --layr.bias: did you mean --layer.bias? (--help"),
        ("plain.inner.deep.7", "unknown option --plain.inner.deep.7 (--help"),
        ("plain.inner.deep.²", "unknown option --plain.inner.deep.²"),
        (
            "modules.layer.bias",
            "--modules.layer.bias: modules.layer is !ref <layer>: give --layer.bias",
        ),
        (
            "by_position.bias",
            "--by_position.bias: the arguments of by_position stand in a list without bias: write "
            "them into the file as key: value",
        ),
    ],
)
def test_keys_that_lead_nowhere(key, message):
    with pytest.raises(UserError) as error:
        find_path(key, TREE)
    assert message in str(error.value)


def test_lists_are_overridden_as_a_whole_and_mappings_in_part():
    overrides = {}
    for key, value in {"plain.inner.deep.0": 5, "plain.inner.deep.1.x": 6, "layer.bias": 7}.items():
        put(overrides, TREE, find_path(key, TREE), value)
    assert overrides == {"plain": {"inner": {"deep": [5, {"x": 6}]}}, "layer": {"bias": 7}}
    assert TREE["plain"]["inner"]["deep"] == [1, {"x": 2}]


def test_a_section_and_a_key_of_it_are_not_given_together():
    check_apart(["layer.bias", "layers", "layer.in"])
    with pytest.raises(UserError, match=r"--layer and --layer\.bias are both given: put them into"):
        check_apart(["layer.bias", "x", "layer"])


@pytest.mark.parametrize("known", [[], ["d_model", "seed"]])
def test_a_message_without_a_hint_ends_before_nothing(known):
    assert unknown_key_message("zzz", known) == "unknown option --zzz (--help lists all)"


def test_keys_of_another_file_are_given_one_by_one():
    words = ["--architecture_overrides.d_model", "96", "--architecture_overrides.CNN.strides=[2]"]
    request = parse_command_line([str(ROOT / "hparams/pom_ctc.yaml"), *words])
    assert request.overrides == {"architecture_overrides": {"d_model": 96, "CNN.strides": [2]}}
