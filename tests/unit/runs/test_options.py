"""The command line: verbatim values, exact keys, typed run options, one message per mistake."""

import sys

import pytest
from speechbrain.utils.run_opts import RunOptions

from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.utils.errors import UserError

TOY = """\
# Toy experiment on nothing.
#   python train.py toy.yaml

# About the data.
data_folder: null
attention_type: PoM
lr: 0.001
d_model: 64
tensorboard: False
precision: bf16
name: !ref <attention_type>/x
model: !new:torch.nn.Linear {in_features: 2, out_features: 3}
demo:
    d_model: 8
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "value",
    [
        "PoM(degree=3)",
        "RelPosMHAXL*4 + PoM(degree=2, expand=2)*8",
        "/data/a=b/c==d",
        "/data/x #1",
        "C: \\data: x",
        "a: b",
        'it\'s "here"',
        "/dåta/日本 語/🎤",
        "--double",
        "2024-01-31",
        "yes",
        "=",
        "*anchor",
        "&x",
        "%TAG",
        "@",
        "[unclosed",
        "{a}/b",
        "<angle>",
        "- item",
        "!bang",
        "x" * 90 + " one space " + "y" * 90,
    ],
)
def test_strings_are_kept_verbatim(toy, value):
    request = parse_command_line([toy, f"--attention_type={value}"])
    assert request.overrides == {"attention_type": value}
    if not value.startswith("--"):
        assert parse_command_line([toy, "--attention_type", value]).overrides == request.overrides


def test_speechbrain_splits_values_at_equal_signs(toy):
    # The behaviour that made an own parser necessary.
    _, _, overrides = RunOptions.from_command_line_args([toy, "--attention_type", "PoM(degree=3)"])
    assert "PoM(degree=3)" not in overrides


def test_run_options_are_typed_and_only_the_given_ones_appear(toy):
    argv = [toy, "--optimizer_step_limit", "20", "--max_grad_norm=10", "--debug", "--lr", "1e-2"]
    request = parse_command_line(argv)
    assert request.run_options == {"optimizer_step_limit": 20, "max_grad_norm": 10.0, "debug": True}
    assert isinstance(request.run_options["max_grad_norm"], float)
    assert request.overrides == {"lr": 0.01}
    assert request.command == (sys.argv[0], *argv)


def test_run_option_that_the_yaml_has_too_overrides_both(toy):
    request = parse_command_line([toy, "--precision", "fp32"])
    assert request.run_options == request.overrides == {"precision": "fp32"}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--debug", "False"], {"debug": False}),
        (["--noprogressbar", "--jit_module_keys", "[a, b]"], {"jit_module_keys": ["a", "b"]}),
        (["--compile_module_keys=encoder"], {"compile_module_keys": ["encoder"]}),
        (["--optimizer_step_limit", "null"], {"optimizer_step_limit": None}),
        (["--device=cuda:1"], {"device": "cuda:1"}),
        (["--max_grad_norm", "-1"], {"max_grad_norm": -1.0}),
    ],
)
def test_forms_of_run_options(toy, arguments, options):
    assert options.items() <= parse_command_line([toy, *arguments]).run_options.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d_modle", "8"], "unknown option --d_modle: did you mean --d_model? "),
        (["--data-folder=/x"], "unknown option --data-folder: did you mean --data_folder? "),
        (["--prec", "fp32"], "unknown option --prec: did you mean --precision? "),
        (["--zzzzz", "1"], "unknown option --zzzzz (--help lists all)"),
        (["--overridden_args", "1"], "unknown option --overridden_args (--help"),
        (["--demo"], "--demo is no option: the demo runs when --data_folder is left out"),
        (["--lr", "1", "--lr=2"], "--lr is given twice: '1' and '2'"),
        (["--lr"], "--lr needs a value: --lr VALUE or --lr=VALUE"),
        (["--tensorboard"], "--tensorboard needs a value: --tensorboard VALUE or "),
        (["--data_folder", ""], "--data_folder has an empty value (an unset shell variable?): "),
        (["--data_folder="], "--data_folder has an empty value (an unset shell variable?): "),
        (["--data_folder", "/my", "data"], "unexpected argument 'data' after --data_folder: "),
        (["-x"], "unexpected argument '-x': options are --key value"),
        (["--optimizer_step_limit", "2e5"],
         "--optimizer_step_limit takes a whole number or null, not '2e5'"),
        (["--grad_accumulation_factor=True"],
         "--grad_accumulation_factor takes a whole number, not 'True'"),
        (["--max_grad_norm", "ten"], "--max_grad_norm takes a number, not 'ten'"),
        (["--precision", "fp64"], "--precision takes one of fp32, fp16, bf16, not 'fp64'"),
        (["--debug", "maybe"], "--debug takes True or False, not 'maybe'"),
        (["--jit_module_keys", "3"], "--jit_module_keys takes a list of names, such as "),
        (["--lr", "fast"], "--lr takes a number (the YAML has 0.001), not 'fast'"),
        (["--d_model", "[1]"], "--d_model takes a number (the YAML has 64), not '[1]'"),
        (["--tensorboard", "1"], "--tensorboard takes True or False (the YAML has False), not '1'"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_message(toy, arguments, message):
    with pytest.raises(UserError) as error:
        parse_command_line([toy, *arguments])
    assert message in str(error.value)


def test_a_number_may_become_null_or_a_reference(toy):
    request = parse_command_line([toy, "--lr", "null", "--d_model", "!ref <lr>"])
    assert request.overrides["lr"] is None
    assert request.overrides["d_model"].value == "<lr>"


def test_mistakes_about_the_yaml_file(tmp_path):
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2")
    cases = {
        "nowhere.yaml": "no such experiment file: '{}'",
        "": "'{}' is a folder: give the experiment's YAML file",
        "list.yaml": "{} has no keys: an experiment is a mapping of key: value",
        "broken.yaml": "{} is not valid YAML: while parsing a flow sequence",
        "twice.yaml": 'found duplicate key "a"',
    }
    for name, message in cases.items():
        with pytest.raises(UserError) as error:
            parse_command_line([str(tmp_path / name)])
        assert message.format(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("argv", "given"), [([], "nothing"), (["--lr", "1"], "'--lr'")])
def test_the_yaml_comes_first(argv, given):
    with pytest.raises(UserError) as error:
        parse_command_line(argv)
    message = str(error.value)
    assert message.startswith(f"the first argument is the experiment's YAML, not {given}; usage: ")


def test_help_lists_comment_keys_values_and_run_options(toy, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_command_line([toy, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("usage: python ")
    assert "Toy experiment on nothing.\n  python train.py toy.yaml\n\n" in text
    assert "About the data" not in text
    assert ["--data_folder", "null"] in lines
    assert ["--lr", "0.001"] in lines
    assert ["--name", "!ref", "<attention_type>/x"] in lines
    assert ["--model", "!new:torch.nn.Linear", "{in_features,", "out_features}"] in lines
    assert any(line[:1] == ["--optimizer_step_limit"] for line in lines)
    assert not any(line[:1] == ["--demo"] for line in lines)


def test_help_without_a_yaml(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_command_line(["--help"])
    assert exit_info.value.code == 0
    assert "With a YAML, --help lists its options." in capsys.readouterr().out
