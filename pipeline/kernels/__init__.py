"""Quantizers that give ggml's bytes, several times faster than ggml's scalar C: see kernels.h."""
