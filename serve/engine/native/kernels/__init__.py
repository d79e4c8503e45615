"""Triton kernels of the native engine: NF4 matrices, attention, and the element-wise steps between them."""
