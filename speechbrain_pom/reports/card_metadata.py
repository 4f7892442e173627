"""The front matter of a model card, which model hubs read: written by huggingface_hub."""

import re
from collections.abc import Mapping, Sequence

from huggingface_hub import EvalResult, ModelCardData

from speechbrain_pom.runs.metrics import Metric, TaskMetrics
from speechbrain_pom.utils.errors import UserError

_LICENCE = r"[a-z0-9][a-z0-9.+-]*"
_LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]+)*"
_DIGITS = 4

Tests = Sequence[tuple[tuple[str, ...], Mapping[str, float]]]


def front_matter(
    name: str,
    tuned: bool,
    licence: str | None,
    language: str | None,
    task: TaskMetrics,
    tests: Tests = (),
) -> str:
    """The metadata of a model as YAML between two lines of hyphens.

    Arguments
    ---------
    name : str
        Of the model.
    tuned : bool
        Whether it has a CTC head.
    licence, language : str, optional
        Identifiers, as model hubs know them.
    task : TaskMetrics
        What its run measures.
    tests : sequence of (tuple of str, mapping)
        Names and results of tests on real speech.

    Returns
    -------
    str

    Raises
    ------
    UserError
        For a licence or language that is no identifier.

    Example
    -------
    >>> task = TaskMetrics("BEST-RQ", (Metric("loss", better="lower"),), best="loss")
    >>> print(front_matter("a", False, None, "en", task))
    ---
    language: en
    library_name: speechbrain
    license: unknown
    pipeline_tag: feature-extraction
    tags:
    - speechbrain
    - speechbrain-pom
    - speech
    - BEST-RQ
    ---
    """
    if licence is not None and not re.fullmatch(_LICENCE, licence):
        raise UserError(
            f"--licence is {licence!r}: give an identifier such as apache-2.0, cc-by-4.0 or other"
        )
    if language is not None and not re.fullmatch(_LANGUAGE, language):
        raise UserError(f"--language is {language!r}: give a code such as en, fr or pt-BR")
    pipeline = "automatic-speech-recognition" if tuned else "feature-extraction"
    results = [
        _result(pipeline, names, metric, found[metric.name])
        for names, found in tests
        for metric in task.of("test")
        if metric.better and metric.name in found
    ]
    known = {"model_name": name, "eval_results": results} if results else {}
    tags = ("speechbrain", "speechbrain-pom", "speech", task.task)
    data = ModelCardData(
        language=language,
        license=licence or "unknown",
        library_name="speechbrain",
        pipeline_tag=pipeline,
        tags=[tag for tag in tags if tag],
        **known,
    )
    return f"---\n{data.to_yaml()}\n---"


def _result(pipeline: str, names: tuple[str, ...], metric: Metric, value: float) -> EvalResult:
    dataset, *conditions = names
    return EvalResult(
        task_type=pipeline,
        dataset_type=re.sub(r"[^a-z0-9._-]+", "-", dataset.lower()),
        dataset_name=dataset,
        metric_type=metric.name,
        metric_value=round(value, _DIGITS),
        metric_name=", ".join((metric.label, *conditions)),
    )
