"""What pretraining by BEST-RQ measures."""

from speechbrain_pom.runs.metrics import Metric

_CODES = {"panel": "Codes", "parts": ("valid",), "axis": "log", "digits": 0, "summary": "last"}

METRICS = (
    Metric("loss", "nats", better="lower", panel="Loss"),
    Metric(
        "accuracy",
        "share",
        label="masked accuracy",
        better="higher",
        panel="Masked prediction",
        compared_with="top_code_share",
    ),
    Metric(
        "top_code_share",
        "share",
        label="commonest code",
        panel="Masked prediction",
        parts=("valid",),
    ),
    Metric("code_perplexity", **_CODES),
    Metric("codes_in_use", **_CODES),
    Metric("masked_share", "share", label="masked frames"),
)
