"""What a mistyped recipe key probably meant: a neighbour, a key of another table, or another trainer's name for it."""

from __future__ import annotations

import difflib
from dataclasses import fields

from ktotrain.recipe_tables import TABLES

# The names that TRL, Axolotl and LLaMA-Factory users will type.
ELSEWHERE = {
    "adam_beta1": "optim.betas",
    "adam_beta2": "optim.betas",
    "adam_epsilon": "optim.eps",
    "base_model": "model.path",
    "bf16": "train.precision",
    "cutoff_len": "data.max_length",
    "dataset": "data.train",
    "datasets": "data.train",
    "eval_steps": "train.eval_every",
    "fp16": "train.precision",
    "gradient_accumulation_steps": "train.batch_size",
    "kto_chosen_weight": "loss.desirable_weight",
    "kto_desirable_weight": "loss.desirable_weight",
    "kto_rejected_weight": "loss.undesirable_weight",
    "kto_undesirable_weight": "loss.undesirable_weight",
    "load_in_4bit": "model.quantization",
    "load_in_8bit": "model.quantization",
    "logging_steps": "train.log_every",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_r": "adapter.rank",
    "lora_target": "adapter.target_modules",
    "loss_type": "loss.kind",
    "lr": "optim.learning_rate",
    "lr_scheduler": "optim.schedule",
    "lr_scheduler_type": "optim.schedule",
    "max_seq_length": "data.max_length",
    "micro_batch_size": "train.batch_size",
    "model_name_or_path": "model.path",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "pref_beta": "loss.beta",
    "r": "adapter.rank",
    "report_to": "train.trackers",
    "rl_beta": "loss.beta",
    "save_steps": "train.save_every",
    "save_total_limit": "train.keep_checkpoints",
    "sequence_len": "data.max_length",
    "torch_dtype": "model.dtype",
    "train_batch_size": "train.batch_size",
    "warmup_ratio": "optim.warmup",
    "warmup_steps": "optim.warmup",
}


def keys_of(table: str) -> list[str]:
    """The keys of one table, in order; none for a table that does not exist."""
    return [field.name for field in fields(TABLES[table])] if table in TABLES else []


def suggest_table(name: str) -> str:
    """Advice for a table that does not exist."""
    near = difflib.get_close_matches(name, TABLES, n=1)
    return f"Did you mean [{near[0]}]?" if near else f"Known: {', '.join(TABLES)}"


def suggest_key(table: str, name: str) -> str:
    """Advice for a key that does not exist in a table; table "" stands for none."""
    own = keys_of(table)
    if near := difflib.get_close_matches(name, own, n=1):
        return f"Did you mean {near[0]!r}?"
    for other in TABLES:
        if name in keys_of(other):
            return f"It belongs in [{other}]"
    if name in ELSEWHERE:
        other, _, key = ELSEWHERE[name].partition(".")
        return f"Here that is {key!r} in [{other}]"
    places = {key: other for other in TABLES for key in keys_of(other)}
    if near := difflib.get_close_matches(name, places, n=1, cutoff=0.7):
        return f"Did you mean {near[0]!r} in [{places[near[0]]}]?"
    return f"Known: {', '.join(own or TABLES)}"
