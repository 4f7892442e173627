"""Probing a frozen encoder: what a linear classifier reads from its layers."""

from speechbrain_pom.probe.classifier import Probe
from speechbrain_pom.probe.metrics import ClassificationScores, equal_error_rate
from speechbrain_pom.probe.tasks import prepare_probe

__all__ = [
    "ClassificationScores",
    "Probe",
    "equal_error_rate",
    "prepare_probe",
]
