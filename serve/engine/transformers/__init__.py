"""The reference engine: any causal language model that Transformers loads, correct before fast.

`engine` batches requests and owns the thread, `rows` is the KV cache with a length per row, `adapters` is PEFT.
"""

from serve.engine.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
