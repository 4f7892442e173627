"""Trained models as graphs that run without this package: torch.export and ONNX."""

from speechbrain_pom.deploy.onnx_files import write_onnx, write_onnx_stream
from speechbrain_pom.deploy.programs import export_program

__all__ = ["export_program", "write_onnx", "write_onnx_stream"]
