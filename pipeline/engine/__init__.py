"""A quant without llama-quantize, byte for byte what it writes: each tensor is quantized once and kept.

llama-quantize is asked what it would make of each tensor (`plan`). What the store does not have yet is quantized by
ggml's own code, in a program of its own (`tensors`, `worker`). The file is put together from the store's tensors and
the reference's, behind the metadata that llama-quantize would write (`header`, `assembly`).

So the quants of a ladder share every tensor that has the same type in them, and so do two runs on one machine.
"""
