"""The model's own facts: format, checkpoints, adapters. Does not know Ray.

>>> from models.base import checkpoint
>>> base = checkpoint.inspect(checkpoint.resolve("tiny"))
>>> base.architecture, base.vocab_size, base.longest
('GptOssForCausalLM', 1024, 4096)
"""
