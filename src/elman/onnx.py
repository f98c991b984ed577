"""ONNX files of our layers: `export` writes them, `load` reads the recurrent nodes of any file."""

from elman.exchange.onnx_reading import OnnxError, load
from elman.exchange.onnx_writing import export, translation_table

__all__ = ["OnnxError", "export", "load", "translation_table"]
