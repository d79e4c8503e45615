"""LoRA adapters inside one Transformers model, by PEFT: load, activate, unload. Knows no requests.

PEFT changes the model's modules in place and has one active adapter at a time for the whole model, so
all of this belongs to the thread that runs the model, between forward passes.
"""

import itertools

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import PreTrainedModel

from configs.errors import AdapterError
from serve.engine.adapter_files import AdapterFiles

NEITHER = object()


class AdapterSet:
    """The adapters of one model by version. The model itself stays the object to call."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._peft: PeftModel | None = None
        # PEFT turns names into module names, which take no dots; a version may have some, or come back after removal.
        self._fresh_names = (f"adapter{number}" for number in itertools.count())
        self._names: dict[str, str] = {}
        self._active: object = None

    def load(self, version: str, files: AdapterFiles) -> None:
        """Put the adapter into the model, inactive.

        Raises AdapterError if it does not fit the model or the adapters there, and leaves nothing of it behind.
        """
        name = next(self._fresh_names)
        self._active = NEITHER
        try:
            self._inject(name, _config(files))
            self._check_names(name, files)
            set_peft_model_state_dict(self._peft, files.tensors, adapter_name=name)
        except Exception as error:
            self._discard(name)
            if isinstance(error, AdapterError):
                raise
            raise AdapterError(f"{files.path} does not fit {type(self._model).__name__}: {error}") from error
        self._names[version] = name

    def activate(self, version: str | None) -> None:
        """Let the model's next forward passes use `version`; None is the base alone."""
        if version == self._active:
            return
        name = None if version is None else self._names[version]
        self._active = version
        if self._peft is None:  # nothing is loaded, so the base is all there is
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=True)

    def unload(self, version: str) -> None:
        """Free the adapter's memory."""
        self._active = NEITHER
        self._discard(self._names.pop(version))

    def _inject(self, name: str, config: LoraConfig) -> None:
        if self._peft is None:
            self._peft = PeftModel(self._model, config, adapter_name=name)
        else:
            self._peft.add_adapter(name, config)
        self._model.requires_grad_(False)
        self._model.eval()

    def _check_names(self, name: str, files: AdapterFiles) -> None:
        """PEFT loads what matches and says nothing about the rest, which leaves an adapter without effect."""
        expected = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        missing, unexpected = expected.keys() - files.tensors.keys(), files.tensors.keys() - expected.keys()
        if missing or unexpected:
            examples = ", ".join([*sorted(missing)[:1], *sorted(unexpected)[:1]])
            raise AdapterError(
                f"{files.path}: {len(missing)} of the {len(expected)} tensors that its configuration asks of "
                f"{type(self._model).__name__} are missing and {len(unexpected)} are unknown to it, such as {examples}"
            )
        for key, tensor in files.tensors.items():
            if tensor.shape != expected[key].shape:
                raise AdapterError(
                    f"{files.path}: {key} is {list(tensor.shape)}, the model needs {list(expected[key].shape)}"
                )

    def _discard(self, name: str) -> None:
        if self._peft is None or name not in self._peft.peft_config:
            return
        if len(self._peft.peft_config) > 1:
            self._peft.delete_adapter(name)
        else:
            # Without its last adapter a PeftModel goes on naming it as the active one and refuses the next (PEFT 0.21).
            self._peft.unload()
            self._peft = None


def _config(files: AdapterFiles) -> LoraConfig:
    config = PeftConfig.from_pretrained(str(files.path))
    config.inference_mode, config.init_lora_weights, config.lora_dropout = True, True, 0.0
    return config
