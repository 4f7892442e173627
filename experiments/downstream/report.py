"""The generated section of `docs/downstream.md`: one table of encoders by tasks."""

from pathlib import Path

from ruamel.yaml import YAML

from experiments.downstream.protocols import PROTOCOLS_PATH, Protocol, find_protocol
from experiments.downstream.records import record_path
from experiments.records import RECORDS_FOLDER
from experiments.replica.records import read_record
from speechbrain_pom.reports.comparison import table
from speechbrain_pom.reports.encoders import Result, format_cell, mean_result
from speechbrain_pom.runs.metrics import Metric
from speechbrain_pom.utils.files import replace_section

DOCUMENT = "docs/downstream.md"
BEGIN = "<!-- DOWNSTREAM: written by python -m experiments.downstream report -->"
END = "<!-- /DOWNSTREAM -->"
NUM_BOOTSTRAP = 1000
_METHOD = (
    f"In brackets intervals of 95 %, of {NUM_BOOTSTRAP} bootstrap trials: over utterances, each "
    "with all its seeds; for equal error rates over speakers, the mean of the seeds' intervals. "
    "They know neither the chance of pretraining nor, but for the equal error rates, that of other "
    "speakers. In bold the best of a column."
)


def update_document(
    path: str | Path = DOCUMENT, records_folder: str | Path = RECORDS_FOLDER, check: bool = False
) -> bool:
    """Write the tables of all protocols into a document, or only compare (`check`).

    Returns whether the document had these tables already.
    """
    protocols = [find_protocol(name) for name in YAML(typ="safe").load(PROTOCOLS_PATH)]
    blocks = [render(one, read_record(record_path(one, records_folder))) for one in protocols]
    return replace_section(path, BEGIN, END, "\n\n".join(blocks), check)


def render(protocol: Protocol, record: dict | None) -> str:
    """The section of a protocol, as Markdown."""
    lines = [f"### Protocol `{protocol.name}`: {protocol.hardware}", "", protocol.about]
    if record is None:
        lines += ["", "Not run yet."]
    else:
        seeds = sorted({run["seed"] for run in record["runs"]})
        numbers = ", ".join(map(str, seeds))
        lines += ["", f"Means over the seeds of the heads ({numbers}):"]
        lines += ["", *table(_rows(protocol, record)), "", _METHOD]
        lines += ["", _costs(record)]
    command = f"python -m experiments.downstream run {protocol.name}"
    lines += ["", "```bash", command]
    lines += [f"python -m experiments.downstream report {protocol.name}", "```"]
    return "\n".join(lines)


def _rows(protocol, record):
    found = {}
    for run in record["runs"]:
        found.setdefault((run["upstream"], run["task"]), []).append(_result(run, record))
    figures = {key: mean_result(results, NUM_BOOTSTRAP) for key, results in found.items()}
    metrics = {task: results[0].metric for (_, task), results in found.items()}
    tasks = [task for task in protocol.tasks if task in metrics]
    upstreams = [one for one in protocol.upstreams if any(key[0] == one for key in figures)]
    heads = [f"{one}: {metrics[one].label} ({metrics[one].shown_unit})" for one in tasks]
    yield "encoder", *heads
    for upstream in upstreams:
        cells = (format_cell(figures, upstreams, upstream, one, metrics[one]) for one in tasks)
        yield upstream, *cells


def _result(run, record):
    better = "higher" if run["metric"] == "accuracy" else "lower"
    metric = Metric(run["metric"], run["unit"], label=run["label"], better=better, parts=("test",))
    counts = None
    if "errors" in run:
        chances = record["utterances"][run["task"]]
        pairs = zip(chances, run["errors"], strict=True)
        counts = {key: (errors, chances[key]) for key, errors in pairs}
    return Result(metric, run["value"], run["low"], run["high"], counts)


def _costs(record):
    times = [run["cpu_s"] / 60 for run in record["runs"] if run["cpu_s"] is not None]
    if not times:
        return f"{len(record['runs'])} runs."
    mean, longest = sum(times) / len(times), max(times)
    return (
        f"{len(record['runs'])} runs of {mean:.1f} minutes of CPU time on average and "
        f"{longest:.1f} at most, with loading, encoding and tests."
    )
