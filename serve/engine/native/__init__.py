"""The native engine: gpt-oss in 4 bit, many adapters in one batch.

`engine` steps, `scheduler` says what a step computes, `kv_cache` where keys and values are; `batch` makes tensors of
it, `runner` launches it. `model` is the architecture and `operations` how a CPU computes it; `kernels` do it on a GPU.
`lora` reads adapters, `adapters` keeps them in slots.
"""
