"""The native engine on a GPU: weights as NF4, kernels in place of PyTorch, captured steps."""
