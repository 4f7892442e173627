"""What a run computes, as text by key, and the part that each key of its YAML has in it.

A YAML may say this in two lists of its keys: `_not_part_of_the_run` (they change nothing that is
computed) and `_may_change` (a run may be continued with other values of them). A mapping `_added`
has keys that came later, with the values that stand for what was before: with these they are not
part of a configuration, so that runs that were begun without them are continued.
"""

from pathlib import Path
from typing import NamedTuple

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, SequenceNode

from speechbrain_pom.runs.experiment import Experiment
from speechbrain_pom.runs.keys import unknown_key_message
from speechbrain_pom.runs.legacy import OLD_ROLES
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.overlay import overlay
from speechbrain_pom.runs.values import (
    ADDED,
    DECLARATIONS,
    MAY_CHANGE,
    NOT_PART_OF_THE_RUN,
    RUN_OPTION_TYPES,
    VALUES_OF_CASES,
)
from speechbrain_pom.utils.errors import UserError

# Run options of SpeechBrain, and the keys that this package itself asks for.
_NEVER_PART = {
    "output_folder",
    "resume_anyway",
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
    "noprogressbar",
    "tqdm_colored_bar",
    "log_config",
    "device",
    "distributed_backend",
}
_MAY_ALWAYS_CHANGE = {"optimizer_step_limit"}


class Roles(NamedTuple):
    """The part of the keys in a run.

    Arguments
    ---------
    left_out : set of str
        Keys that change nothing that is computed.
    may_change : set of str
        Keys that may have another value when the run is continued.
    """

    left_out: set
    may_change: set


def roles_of_keys(yaml_path: str | Path) -> Roles:
    """The part of each key, as the YAML declares it; as in version 0.1 if it declares nothing."""
    tree = read_tree(yaml_path)
    lists = {name: tree.get(name) for name in (NOT_PART_OF_THE_RUN, MAY_CHANGE)}
    if all(keys is None for keys in lists.values()):
        lists = OLD_ROLES
    else:
        for name, keys in lists.items():
            _check_list(yaml_path, name, keys, tree)
    left_out, may_change = (set(keys or ()) for keys in lists.values())
    return Roles(left_out | _NEVER_PART, may_change | _MAY_ALWAYS_CHANGE)


def _check_list(yaml_path, name, keys, tree):
    if keys is not None and not isinstance(keys, list):
        raise UserError(f"{yaml_path}: {name} is a list of keys of the file, not '{keys}'")
    for key in keys or ():
        if key not in tree and key not in RUN_OPTION_TYPES:
            message = unknown_key_message(str(key), tree, prefix="")
            raise UserError(f"{yaml_path}, in {name}: {message}")


def _added(yaml_path, top):
    """The keys that a composed YAML declares as added, with the text of their values."""
    nodes = {key.value: value for key, value in top.value}
    declared = nodes.get(ADDED)
    if declared is None:
        return {}
    if not isinstance(declared, MappingNode):
        raise UserError(f"{yaml_path}: {ADDED} is a mapping of keys of the file to values")
    for key, _ in declared.value:
        if key.value not in nodes:
            message = unknown_key_message(key.value, nodes, prefix="")
            raise UserError(f"{yaml_path}, in {ADDED}: {message}")
    return {key.value: _text(value) for key, value in declared.value}


def configuration(
    experiment: Experiment, world_size: int, without: frozenset | set = frozenset()
) -> dict[str, str]:
    """What a run computes, as text by top-level key, with all references resolved.

    Keys in `without` are left out besides those that are no part of the run, also where other
    keys refer to them. Keys of `_added` are left out, in sections too, where they have the value
    that is declared there. The number of processes counts, as it changes the batches.
    """
    left_out = roles_of_keys(experiment.yaml_path).left_out | without
    blank = dict.fromkeys(left_out & read_tree(experiment.yaml_path).keys(), 0)
    resolved = resolve_references(*overlay(experiment.yaml_path, {**experiment.overrides, **blank}))
    top = YAML().compose(resolved)
    added = _added(experiment.yaml_path, top)  # in the same spelling as what it is compared with
    tree = {
        key.value: text
        for key, node in top.value
        if (text := _text(node, added)) != added.get(key.value)
    }
    options = {key: value for key, value in experiment.run_opts.items() if key not in tree}
    if tree.get("batches_per_step", "null") != "null":  # a step is the same for any number
        left_out = left_out | {"grad_accumulation_factor"}
        world_size = "any number"
    no_values = {*VALUES_OF_CASES, *DECLARATIONS}
    return {
        **{key: text for key, text in tree.items() if key not in left_out | no_values},
        **{key: str(value) for key, value in options.items() if key not in left_out},
        "processes": str(world_size),
    }


def fixed_configuration(experiment: Experiment, world_size: int) -> dict[str, str]:
    """What a run computes, without the keys that may change when it is continued."""
    may_change = roles_of_keys(experiment.yaml_path).may_change
    return configuration(experiment, world_size, without=may_change)


def _text(node, added=None):
    """A YAML node in one line, without comments and whatever its layout.

    Keys of mappings that have the value that is `added` are left out.
    """
    added = added or {}
    if isinstance(node, MappingNode):
        pairs = ((_text(key), _text(value, added)) for key, value in node.value)
        pairs = (f"{key}: {text}" for key, text in pairs if added.get(key) != text)
        text = "{" + ", ".join(pairs) + "}"
    elif isinstance(node, SequenceNode):
        text = "[" + ", ".join(_text(part, added) for part in node.value) + "]"
    else:
        text = "null" if node.tag.endswith(":null") else node.value
    return text if node.tag.startswith("tag:yaml.org,2002:") else f"{node.tag} {text}".strip()
