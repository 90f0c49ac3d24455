"""Quantizers that give ggml's bytes, several times faster than ggml's scalar C: see kernels.h.

They are C, and not numba, after both were tried on two families, with an imatrix, both with ggml's bytes. Million
weights a second of one core's CPU time, in one run (Xeon with AVX-512, GCC 12, numba 0.68 with 64 lanes, its best):

           ggml   C   numba
    Q4_0     24  137     71
    Q4_1      6   55     31

C is also what reads better here. It has ggml's own types, so that a line can be held against ggml's; in numba each
literal needs a type, or is a double, and rounding to an integer by its bits goes through a view of a second array. And
numba takes 3 s to compile each of them in each process, or keeps a cache of its own, and brings 200 MB of LLVM, where
whoever has built llama.cpp has a C compiler. Of the same C nvcc makes kernels of a GPU: see gpu.h.

`build` compiles them, `prove` is the program that holds one against ggml, and `proof` says which of them this machine
may use.
"""
