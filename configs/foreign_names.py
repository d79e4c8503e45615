"""What others call our settings: Hugging Face's Trainer, TRL, PEFT, Unsloth, axolotl, LLaMA-Factory, torchtune, vLLM,
llama.cpp, Ollama, and Tandem's own past. For guesses and for docs/configuration.md; none of these names is accepted.
"""

from collections.abc import Mapping

SETTINGS = {
    "model.base": "model model_name model_name_or_path model_path model_id base_model pretrained_model"
    " pretrained_model_name_or_path checkpoint",
    "model.max_seq_length": "max_length max_len max_seq_len seq_len seq_length sequence_len sequence_length cutoff_len"
    " model_max_length max_tokens context_length block_size max_context max_model_len",
    "model.load_in_4bit": "load_in_8bit quantization quantization_bit use_4bit qlora bnb_4bit nf4",
    "model.dtype": "torch_dtype compute_dtype bnb_4bit_compute_dtype precision mixed_precision",
    "lora.r": "rank lora_rank lora_dim peft_lora_r",
    "lora.alpha": "peft_lora_alpha scaling lora_scale",
    "lora.dropout": "peft_lora_dropout",
    "lora.target_modules": "lora_target lora_target_linear lora_modules lora_attn_modules modules_to_train",
    "lora.train_experts": "experts lora_experts moe_lora target_parameters lora_target_parameters",
    "lora.seed": "lora_random_state",
    "data.dataset": "datasets dataset_name dataset_path dataset_dir data_path data_file data_files data_dir train_file"
    " train_files train_data train_dataset",
    "data.split": "dataset_split train_split subset",
    "data.format": "type dataset_type dataset_format formatting template prompt_style",
    "data.columns": "dataset_text_field text_field field_messages message_field column_mapping messages_field",
    "data.max_bad_rows": "skip_bad_rows max_errors",
    "data.reasoning_effort": "reasoning effort thinking",
    "data.mask": "responses_only train_on_responses_only train_on_inputs train_on_input train_on_prompt"
    " assistant_only_loss completion_only_loss mask_prompt mask_inputs roles_to_train",
    "data.holdout": "val_set_size val_size eval_size test_size validation_split eval_split val_split split_ratio",
    "data.current_date": "date today",
    "training.micro_batch": "batch_size per_device_train_batch_size per_device_batch_size train_batch_size"
    " micro_batch_size train_micro_batch_size_per_gpu per_gpu_train_batch_size bs mini_batch_size",
    "training.effective_batch": "batch_size global_batch_size total_batch_size effective_batch_size train_batch_size"
    " gradient_accumulation gradient_accumulation_steps grad_accum grad_accumulation grad_accumulation_steps"
    " accumulate_grad_batches accumulation accumulation_steps ga",
    "training.vram_gib": "gpu_memory_utilization gpu_memory max_memory memory_limit vram",
    "training.max_steps": "steps num_steps num_train_steps total_steps max_train_steps max_steps_per_epoch iters"
    " iterations max_iters n_steps",
    "training.epochs": "epoch num_epochs num_train_epochs n_epochs max_epochs",
    "training.learning_rate": "lr peak_lr max_lr base_lr learning_rate_multiplier",
    "training.scheduler": "lr_scheduler lr_scheduler_type lr_schedule schedule scheduler_type",
    "training.warmup_steps": "warmup warmup_ratio num_warmup_steps lr_warmup_steps warmup_iters",
    "training.optimizer": "optim optimizer_type",
    "training.weight_decay": "wd decay adam_weight_decay",
    "training.max_grad_norm": "clip_grad_norm grad_clip gradient_clipping gradient_clip_val max_norm grad_norm",
    "training.bf16": "fp16 use_bf16 bfloat16",
    "training.gradient_checkpointing": "use_gradient_checkpointing enable_activation_checkpointing"
    " activation_checkpointing",
    "training.router_aux_loss_coef": "aux_loss_coef router_loss moe_aux_loss_coeff output_router_logits",
    "training.save_steps": "save_every save_interval save_freq saves_per_epoch save_strategy checkpoint_every"
    " save_every_n_steps",
    "training.keep_checkpoints": "save_total_limit max_checkpoints keep_last_n_checkpoints",
    "training.eval_steps": "eval_every eval_interval eval_freq evals_per_epoch eval_strategy evaluation_strategy"
    " val_check_interval run_val_every_n_steps",
    "training.eval_batch": "per_device_eval_batch_size eval_batch_size batch_size_val",
    "training.patience": "early_stopping early_stopping_patience load_best_model_at_end",
    "training.report_to": "wandb wandb_project use_wandb tensorboard mlflow logger trackers log_with",
    "training.seed": "random_seed random_state data_seed manual_seed",
    "watchdog.target_loss": "loss_target stop_loss",
    "http_port": "port serve_port server_port api_port",
    "dashboard_port": "ray_port ray_dashboard_port",
    "slots": "gpus gpu_ids devices device cuda_visible_devices visible_devices tensor_parallel_size num_gpus",
    "stop_grace_s": "grace_period stop_timeout shutdown_timeout",
    "heartbeat_timeout_s": "timeout heartbeat",
    "max_attempts": "retries max_retries max_restarts",
    "notify.urls": "webhook webhooks webhook_url slack apprise",
    "notify.command": "hook on_event",
    "energy.price_per_kwh": "price electricity_price kwh_price",
    "energy.co2_g_per_kwh": "co2 carbon_intensity",
    "logs.level": "log_level logging_level loglevel verbosity",
    "base": "model model_name model_name_or_path model_path model_id base_model model_tag",
    "max_context": "max_model_len max_seq_len max_seq_length max_length max_total_tokens ctx ctx_len ctx_size"
    " context_length context_size context_window n_ctx num_ctx max_tokens",
    "max_batch": "max_num_seqs max_batch_size max_running_requests parallel n_parallel num_parallel"
    " gpu_memory_utilization",
    "max_waiting": "max_queue max_queue_size max_queued_requests max_pending",
    "allowed_hosts": "allowed_origins cors_origins cors_allow_origins trusted_hosts",
}
"""Our key to the names that others have for it or for what decides it. A name may stand at several keys, the likeliest
first."""

OPTIONS = {
    "--max-tokens": "max_new_tokens max_completion_tokens max_output_tokens num_predict n_predict max_length tokens",
    "--temperature": "temp",
    "--top-p": "nucleus",
    "--system": "system_prompt system_message sys instructions",
    "--reasoning": "reasoning_effort effort",
    "--show-thinking": "think thinking show_reasoning show_analysis",
    "--server-name": "host listen bind address",
    "--url": "base_url api_base api_url openai_api_base endpoint server host",
    "--model": "adapter lora alias model_name served_model_name",
    "--base": "model base_model",
    "--gpu": "device slot gpu_id gpus cuda_visible_devices",
    "--profile": "config preset recipe",
    "--dataset": "data file input",
    "--resume": "resume_from_checkpoint from_checkpoint continue",
    "--continue": "resume last",
    "--dry-run": "check plan preview simulate",
    "--follow": "wait watch tail attach",
    "--set": "override",
    "--json": "output_format format",
    "--out": "output output_dir output_path save save_path dest",
    "--to": "format outtype target",
    "--limit": "number count max",
    "--port": "listen_port",
    "--open": "browser inbrowser launch",
    "--password": "auth",
    "--concurrency": "max_concurrency parallel num_concurrent threads workers",
    "--requests": "num_prompts num_requests max_requests",
    "--request-rate": "qps rps rate",
    "--prompt-tokens": "input_len random_input_len input_tokens prompt_len isl",
    "--output-tokens": "output_len random_output_len osl",
    "--api-key-env": "api_key key token",
    "--since": "after from",
    "--level": "log_level severity",
}
"""The same for options of commands that are not settings."""

COMMANDS = {
    "up": "start serve server launch run deploy",
    "down": "shutdown kill stop",
    "runs stop": "stop cancel abort kill",
    "train": "finetune sft fit lora tune",
    "ask": "generate complete prompt query infer inference",
    "status": "ps ls info state health nvidia",
    "runs list": "ls jobs queue list",
    "adapters list": "models list loras",
    "adapters export": "merge quantize convert save push",
    "swap": "load switch use activate deploy promote rollback",
    "data inspect": "preprocess validate dataset datasets inspect tokenize",
    "evaluate": "eval test judge lm_eval",
    "benchmark": "bench perf load_test",
    "model fetch": "pull download fetch",
    "model check": "verify checksum check",
    "ui": "web webui gradio gui",
    "dashboard": "board monitor",
    "env": "environment",
    "slots quarantine": "drain cordon",
    "slots release": "undrain uncordon",
}
"""The same for commands."""

DIFFERENCES = {
    "accumulation is effective_batch / micro_batch": "gradient_accumulation gradient_accumulation_steps grad_accum"
    " grad_accumulation grad_accumulation_steps accumulate_grad_batches accumulation accumulation_steps ga",
    "warm-up is counted in steps": "warmup_ratio",
    "they are counted in steps": "saves_per_epoch evals_per_epoch save_strategy eval_strategy evaluation_strategy",
}
"""How what a name means here differs from what it means elsewhere."""

NOTES = {
    "a run's files are in TANDEM_HOME/runs/RUN, its adapter is in TANDEM_HOME/models": "output_dir output_path save_dir"
    " save_path checkpoint_dir logging_dir",
    "every step is logged": "logging_steps log_every log_interval log_every_n_steps logging_strategy",
    "rows are not packed: attention would run from one into the next": "packing sample_packing padding_free packed"
    " group_by_length neat_packing",
    "the attention that is right for the device is chosen": "attn_implementation flash_attention flash_attn"
    " use_flash_attention sdp_attention xformers",
    "a run has one GPU; other slots take other runs": "deepspeed fsdp ddp nproc_per_node num_processes tp tp_size"
    " tensor_parallel pipeline_parallel_size",
    "it listens on loopback only; allowed_hosts is for a reverse proxy in front of it": "host",
    "adapters are always served: `tandem swap`": "enable_lora lora_modules max_loras max_lora_rank lora_path",
    "the served adapter is called prod": "served_model_name",
    "no code of a model's own is run": "trust_remote_code",
    "`tandem adapters export` writes what can be uploaded": "push_to_hub hub_model_id hub_repo save_merged",
    "HF_TOKEN in the environment is used": "hf_token hub_token use_auth_token hf_use_auth_token",
}
"""What is to be known of names that have no counterpart."""


def squash(name: str) -> str:
    """A name without what people vary: dashes, dots, underscores and capitals."""
    return "".join(filter(str.isalnum, name)).lower()


def by_name(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """One of the tables turned round: squashed foreign name to ours, the likeliest first."""
    found: dict[str, tuple[str, ...]] = {}
    for ours, names in table.items():
        for name in names.split():
            found[squash(name)] = (*found.get(squash(name), ()), ours)
    return found
