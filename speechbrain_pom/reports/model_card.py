"""The model card of an export: what the run folder says about the model, and nothing else."""

import json
import re
from itertools import groupby
from pathlib import Path

from speechbrain_pom._version import __version__
from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.data.mini_corpus.files import read_manifest as read_mini_corpus
from speechbrain_pom.encoder.chunks import describe_training, trained_chunks
from speechbrain_pom.encoder.describe import describe_layers
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.loading import MODEL_FILE, Saved, find_saved
from speechbrain_pom.encoder.start import FROM_SCRATCH
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.reports.card_metadata import front_matter
from speechbrain_pom.runs.documents import git_revision
from speechbrain_pom.runs.logs import EpochHistory
from speechbrain_pom.runs.metrics import interval
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.record import finished_configuration, read_fingerprint
from speechbrain_pom.utils.files import sha256_of

_PACKAGES = ("speechbrain-pom", "speechbrain", "torch")
_HOW_LONG = ("number_of_epochs", "optimizer_step_limit")
_SYNTHETIC = (
    "**The training data are synthetic**: a small corpus made by a speech synthesiser, to try the "
    "recipes out. The numbers here say nothing about real speech."
)


def read_environment(folder: Path | None) -> tuple[str | None, dict[str, str]]:
    """The commit and the versions of packages that a run was made with.

    There are no versions if this package is not among those listed: SpeechBrain alone lists those
    of the first pip in PATH, which may belong to another environment.

    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "env.log").write_text("torch==2.11.0\\nGit revision:\\n1a2b3c\\n=====")
    >>> read_environment(folder)
    ('1a2b3c', {})
    """
    path = folder / "env.log" if folder else None
    if path is None or not path.is_file():
        return None, {}
    text = path.read_text(encoding="utf-8", errors="replace")
    versions = {
        name: found[1]
        for name in _PACKAGES
        if (found := re.search(rf"^(?:# .*\()?{name}==([\w.+!-]+)", text, re.MULTILINE))
    }
    return git_revision(folder), versions if _PACKAGES[0] in versions else {}


def loading_snippet(tuned: bool, source: str | Path, form: str = "speechbrain") -> str:
    """Python code that loads an export in all ways of its form; `tuned` if it has a CTC head.

    >>> "EncoderASR" in loading_snippet(True, "exported")
    True
    """
    imports = ["from speechbrain.inference.encoders import WaveformEncoder"]
    source = json.dumps(str(source), ensure_ascii=False)
    given = f"source={source}" + (', hparams_file="encoder.yaml"' if tuned else "")
    lines = [
        f"encoder = WaveformEncoder.from_hparams({given})",
        'frames = encoder.encode_file("speech.flac")',
        "",
        "# with the methods of speechbrain-pom: hidden states, long audio, fine-tuning",
        f"encoder = load_encoder({source})",
        'frames = encoder.encode_file("speech.flac")',
    ]
    if tuned:
        imports.insert(0, "from speechbrain.inference.ASR import EncoderASR")
        lines = [
            f"recogniser = EncoderASR.from_hparams(source={source})",
            'text = recogniser.transcribe_file("speech.flac")',
            "",
            *lines,
        ]
    imports.append("from speechbrain_pom import load_encoder")
    if form == "transformers":
        name = "AutoModelForCTC" if tuned else "AutoModel"
        imports += ["import speechbrain_pom.hf  # its models, for transformers"]
        imports += [f"from transformers import {name}"]
        lines += ["", f"model = {name}.from_pretrained({source})"]
    return "\n".join([*imports, "", *lines])


def write_card(
    name: str,
    model: SpeechEncoder | SpeechRecogniser,
    saved: Saved,
    licence: str | None = None,
    language: str | None = None,
    form: str = "speechbrain",
) -> str:
    """The model card of an export, in Markdown with the front matter of model hubs.

    What the run folder of the checkpoint does not say, the card does not say either, and it names
    no path of this machine. Licence and language are identifiers, as model hubs know them; `form`
    is that of the export.
    """
    tuned = isinstance(model, SpeechRecogniser)
    options = read_tree(saved.hparams_file)
    synthetic = _is_synthetic(options)
    found = _find_tests(saved, options)
    tests = [] if synthetic else found  # a hub compares what it reads with real speech
    sections = [
        front_matter(name, tuned, licence, language, saved.task, tests),
        f"# {name}",
        _opening(tuned, saved.task.task),
        _table(_model_rows(model)),
        "## How to load it",
        f"With `speechbrain-pom` {__version__} and SpeechBrain installed; "
        "`MODEL` is this folder or, on a model hub, its name, for `load_encoder` with `hf://` "
        "before it.",
        f"```python\n{loading_snippet(tuned, 'MODEL', form)}\n```",
        "## Training",
        _SYNTHETIC if synthetic else "",
        _table([*_data_rows(saved, options), *_course_rows(saved), *_origin_rows(saved)]),
        *_tests(saved, found),
        "## Licence",
        f"`{licence}`" if licence else "Not stated.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _opening(tuned, task):
    if tuned:
        return "A speech recogniser: an encoder with a CTC head, for SpeechBrain."
    how = f" by {task}" if task else ""
    return f"A speech encoder, pretrained without transcripts{how}, for SpeechBrain."


def _table(rows):
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {text} |" for key, text in rows)])


def _model_rows(model):
    """Architecture, sizes, and what goes in and out."""
    tuned = isinstance(model, SpeechRecogniser)
    encoder = model.encoder if tuned else model
    described = describe_layers(encoder.transformer.encoder)
    mixers = [layer["mixer"] for layer in described["layers"]]
    runs = [(mixer, len(list(same))) for mixer, same in groupby(mixers)]
    frame_ms = encoder.hop_ms * encoder.stride
    yield "encoder", f"{described['class']}, {encoder.num_layers} layers, d_model {encoder.d_model}"
    yield "mixers", ", ".join(f"`{mixer}` in {count} layers" for mixer, count in runs)
    yield "parameters", f"{sum(weight.numel() for weight in model.parameters()):,}"
    yield "input", f"speech at {encoder.sample_rate} Hz, mono"
    yield "frames", f"{encoder.d_model} values each {frame_ms:g} ms"
    if tuned:
        kind = {"char": "characters", "bpe": "SentencePiece pieces"}[model.units.kind]
        yield "units", f"{model.units.size} {kind}, the blank included"


def _data_rows(saved, options):
    """Names and hours of the data."""
    splits = options.get("train_splits")
    if options.get("data_layout") == "folder":
        names = "a folder of audio"
    else:
        names = ", ".join(splits) if isinstance(splits, list) else "training data"
    path = saved.run_folder / "manifests" / "train.csv" if saved.run_folder else None
    if path and path.is_file():
        shortest, longest = options.get("min_duration_s", 0), options.get("max_duration_s", 1e9)
        durations = [row["duration"] for row in read_manifest(path).values()]
        used = [duration_s for duration_s in durations if shortest <= duration_s <= longest]
        names += f": {sum(used) / 3600:.2f} h, {len(used)} utterances"
    elif not splits:
        return
    yield "data", names


def _course_rows(saved):
    """How far training went, and what the validation of the checkpoint gave."""
    meta = saved.meta
    start = read_fingerprint(saved.run_folder, "pretrained") if saved.run_folder else None
    if start is not None:
        pretrained = f"a pretrained encoder, `{MODEL_FILE}` with sha256 `{start}`"
        yield "began with", "random weights" if start == FROM_SCRATCH else pretrained
    if "optimizer_step" in meta:
        yield "trained", f"{meta['optimizer_step']} steps{_epochs(saved)}"
    chunks = trained_chunks(read_tree(saved.hparams_file))
    if chunks:
        yield "trained with chunks", describe_training(chunks)
    known = [
        f"{metric.label} {metric.format(meta[metric.name])}"
        for metric in saved.task.of("valid")
        if metric.better and metric.name in meta
    ]
    if known:
        yield "validation", ", ".join(known)


def _epochs(saved):
    """The epoch that ended with the checkpoint's step, if one did."""
    if saved.run_folder is None:
        return ""
    records = EpochHistory(saved.run_folder / "history.jsonl").records()
    steps = saved.meta["optimizer_step"]
    return next((f", {one['epoch']} epochs" for one in records if one["steps"] == steps), "")


def _origin_rows(saved):
    """The checkpoint, and the code that made it."""
    yield "checkpoint", f"`{saved.checkpoint.name}`"
    yield f"sha256 of its `{MODEL_FILE}`", f"`{sha256_of(saved.checkpoint / MODEL_FILE)}`"
    commit, versions = read_environment(saved.run_folder)
    if versions:
        yield "made with", ", ".join(f"{name} {version}" for name, version in versions.items())
    if commit:
        yield "commit", f"`{commit}`"


def _is_synthetic(options):
    try:
        read_mini_corpus(options.get("data_folder") or "")
    except ValueError:
        return False
    return True


def _find_tests(saved, options):
    """Names and results of the run's tests, if they are of this checkpoint."""
    folder = saved.run_folder
    path = folder / "results.json" if folder else None
    if path is None or not path.is_file() or not _is_tested(saved, options):
        return []
    return list(saved.task.find_results(json.loads(path.read_text(encoding="utf-8"))))


def _tests(saved, found):
    """The section of the tests, if there are any."""
    if not found:
        return
    yield "## Tests"
    columns = [
        metric
        for metric in saved.task.of("test")
        if any(metric.name in results for _, results in found)
    ]
    units = [f" ({metric.shown_unit})" if metric.shown_unit else "" for metric in columns]
    heading = [metric.label + unit for metric, unit in zip(columns, units, strict=True)]
    lines = [("test", *heading), ("---",) * (1 + len(columns))]
    lines += [
        (", ".join(names), *(_result(metric, results) for metric in columns))
        for names, results in found
    ]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    yield "In brackets: intervals of 95 %."


def _result(metric, results):
    """A metric of a test with its interval."""
    if metric.name not in results:
        return ""
    ends = interval(metric, results)
    text = f" ({metric.number(ends[0])} to {metric.number(ends[1])})" if ends else ""
    return metric.number(results[metric.name]) + text


def _is_tested(saved, options):
    """Whether a run has ended, so that its tests were of its best checkpoint, and this is it."""
    then = finished_configuration(saved.run_folder)
    if then is None:
        return False
    # A checkpoint of a run that was given more epochs afterwards may not have been tested yet.
    texts = {key: "null" if options.get(key) is None else str(options[key]) for key in _HOW_LONG}
    if any(then.get(key, "null") != text for key, text in texts.items()):
        return False
    return find_saved(saved.run_folder).checkpoint == saved.checkpoint
