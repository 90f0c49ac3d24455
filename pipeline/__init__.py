"""Quantize Hugging Face models to GGUF, measure every file, publish what passes."""

__version__ = "0.1.0"
