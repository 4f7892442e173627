"""The pages of the reference, made from what packages export and from the commands' parsers."""

import argparse
import ast
from pathlib import Path

from speechbrain_pom.__main__ import COMMANDS, build_parser

ROOT = Path(__file__).parents[2]

# A page describes all that a package exports, or a name of a module. What an earlier page has is
# left out.
PAGES = {
    "attention": ("Attention types", ["attention", "nnet.mixer:register_mixer"]),
    "mixers": ("Mixers", ["nnet"]),
    "operators": ("Operators", ["ops"]),
    "models": ("Encoders and recognisers", ["inference", "encoder"]),
    "streams": (
        "Streams",
        [
            "encoder.streaming.stream:EncoderStream",
            "encoder.streaming.pool:StreamPool",
            "inference.streaming.stream:RecognitionStream",
            "inference.streaming.pool:RecognitionPool",
            "inference.streaming",
        ],
    ),
    "transcripts": (
        "Transcripts and decoding",
        [
            "inference.segments:Transcript",
            "inference.segments:Segment",
            "ctc.alignment:Word",
            "ctc.alignment:align_words",
            "ctc.decoding:greedy_decode",
            "ctc.decoding:make_beam_searcher",
            "ctc.scoring:ErrorRates",
            "ctc.tokenizers:Units",
            "ctc.tokenizers:CharacterUnits",
            "ctc.tokenizers:SentencePieceUnits",
        ],
    ),
    "transformers": ("transformers", ["hf"]),
    "deployment": ("Deployment", ["deploy"]),
    "objectives": (
        "Objectives",
        ["objectives", "objectives.pretraining:PretrainingBrain"],
    ),
    "bestrq": ("BEST-RQ", ["objectives.bestrq"]),
    "wav2vec2": ("wav2vec 2.0", ["objectives.wav2vec2"]),
    "downstream": (
        "Downstream tasks",
        ["downstream", "downstream.brain:DownstreamBrain", "downstream.heads", "probe"],
    ),
    "training": (
        "Runs and training",
        [
            "runs.start:start_experiment",
            "runs.experiment:Experiment",
            "runs.metrics:Metric",
            "runs.metrics:TaskMetrics",
            "runs.folder:mark_finished",
            "runs.checkpoints:SafeCheckpointer",
            "runs.logs:ExperimentLogger",
            "training.brain:ExactBrain",
            "training.dataset:audio_dataset",
            "training.dataset:make_sampler",
            "training.sampler:BucketBatchSampler",
            "training.chunks:ChunkSampler",
            "utils.errors:UserError",
            "utils.errors:exit_on_user_error",
            "utils.seeding:derive_seed",
        ],
    ),
    "data": (
        "Data",
        [
            "data.prepare:Manifests",
            "data.prepare:prepare_data",
            "data.prepare:prepare_csvs",
            "data.corpora:Corpus",
            "data.corpora:find_corpus",
            "data.corpora:write_part",
            "data.index:read_index",
            "data.index:write_index",
            "data.packing:pack",
            "data.check:check_data",
            "data.mini_corpus.make:make_mini_corpus",
        ],
    ),
}
# On these pages methods of base classes are shown once, at the base class.
WITHOUT_INHERITED = ("mixers", "downstream", "objectives", "bestrq", "wav2vec2", "transformers")


def exported(package):
    """The names in `__all__` of a package, with the module that each is imported from.

    It is read and not imported, so that the reference is made without optional packages.
    """
    tree = ast.parse((folder_of(package) / "__init__.py").read_text("utf-8"))
    names = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    origins = {
        alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    origins = {name: origins.get(name, package) for name in names if not name.startswith("__")}
    return {name: origin for name, origin in origins.items() if origin != f"{package}.{name}"}


def names_of_pages():
    """For each page its names as users import them, with the names by which they are found.

    Users import from the highest package that exports a name.
    """
    top, seen, pages = exported("speechbrain_pom"), set(), {}
    for page, (_, sources) in PAGES.items():
        pages[page] = {}
        for source in sources:
            path, _, name = f"speechbrain_pom.{source}".partition(":")
            origins = {name: f"{path}.{name}"} if name else exported(path)
            for short, origin in origins.items():
                if (short, origin.rpartition(".")[0]) in seen or short.isupper():
                    continue
                seen.add((short, origin.rpartition(".")[0]))
                name = f"{'speechbrain_pom' if short in top else path}.{short}"
                # A function may have the name of its module, which would be described instead.
                pages[page][name] = origin if folder_of(name).is_dir() else name
    return pages


def folder_of(package):
    """Where a package is, if there is one of this name."""
    return ROOT / package.replace(".", "/")


def reference_pages():
    """Path and text of each page of the reference."""
    pages = names_of_pages()
    for page, names in pages.items():
        blocks = "\n".join(block(page, *name) for name in names.items())
        yield f"reference/{page}.md", f"# {PAGES[page][0]}\n\n{blocks}"
    yield "reference/README.md", index(pages)
    yield "reference/commands.md", commands()


def block(page, name, found):
    """The directive that describes a name on a page."""
    options = {"heading": name, "toc_label": name.rpartition(".")[2]}
    if page in WITHOUT_INHERITED:
        options["inherited_members"] = "false"
    lines = [f"      {key}: {value}" for key, value in options.items()]
    return "\n".join([f"::: {found}", "    options:", *lines, ""])


def index(pages):
    """The list of all names, by page."""
    lines = ["# Reference", "", "All public names, by subject.", ""]
    for page, names in pages.items():
        lines += [f"## [{PAGES[page][0]}]({page}.md)", ""]
        lines += [f"- [`{name}`][{found}]" for name, found in names.items()] + [""]
    return "\n".join(lines)


def commands():
    """What `--help` says of each command."""
    lines = ["# Commands", "", "`speechbrain-pom COMMAND` is `python -m speechbrain_pom COMMAND`."]
    for name in COMMANDS:
        choices = next(
            action.choices
            for action in build_parser(name)._actions
            if isinstance(action, argparse._SubParsersAction)
        )
        parser = choices[name]
        parser.prog = f"speechbrain-pom {name}"
        text = "\n".join(line.rstrip() for line in parser.format_help().splitlines())
        lines += ["", f"## {name}", "", "```output", text, "```"]
    return "\n".join(lines) + "\n"
