"""Names in the embedded model's 4-bit layout, and a change of one of its shards."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

DOWN = "model.layers.2.mlp.experts.down_projs.1.weight"
LAYER = "model-layer02.safetensors"


def rewrite(folder: Path, shard: str, change) -> None:
    """Apply `change` to the tensors of one shard and keep the index in step with it."""
    tensors = load_file(folder / shard)
    change(tensors)
    save_file(tensors, folder / shard)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    others = {key: file for key, file in index["weight_map"].items() if file != shard}
    index["weight_map"] = others | dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
