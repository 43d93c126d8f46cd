"""Loads what a recipe's [model] and [adapter] name, and says clearly when it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ktotrain.errors import ModelError

# What loading raises when a folder, a Hub id or a file in it is not what it should be.
_LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError)


def load_tokenizer(path: str, *, revision: str = "", trust_remote_code: bool = False) -> Any:
    """The tokenizer of a Hub id or folder, with a padding token.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoTokenizer

    _require_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except _LOAD_ERRORS as error:
        raise ModelError(
            f"no tokenizer can be loaded: {_first_line(error)}",
            where=path,
            do="Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the model",
        ) from error
    if not len(tokenizer):  # what transformers makes up for a folder without tokenizer files
        raise ModelError(
            "the folder has no tokenizer",
            where=path,
            do="Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the model",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(path: str, *, revision: str = "", trust_remote_code: bool = False) -> Any:
    """The config of a Hub id or folder, without its weights.

    Raises:
        ModelError: there is none, or its architecture is unknown.
    """
    from transformers import AutoConfig

    _require_folder(path)
    try:
        return AutoConfig.from_pretrained(path, revision=revision or "main", trust_remote_code=trust_remote_code)
    except _LOAD_ERRORS as error:
        raise ModelError(f"no model config can be loaded: {_first_line(error)}", where=path) from error


def load_model(
    path: str,
    *,
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    trained: bool,
    device: torch.device,
    revision: str = "",
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model on `device`, without dropout.

    Args:
        path: a Hub id or a folder; weights are read from safetensors only, since a pickle can run code.
        dtype: "auto" is float32 if the weights are `trained`, else the checkpoint's own.
        trained: whether these weights will be changed.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    _require_folder(path)
    wanted = ("float32" if trained else "auto") if dtype == "auto" else dtype
    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=wanted,
                revision=revision or "main",
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except _LOAD_ERRORS as error:
        raise ModelError(f"the model cannot be loaded: {_first_line(error)}", where=path) from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"the checkpoint lacks {len(report['missing_keys'])} weights of {type(model).__name__}: {some} …",
            where=path,
            do="Those would be random. Use a complete checkpoint of a causal language model",
        )
    _without_dropout(model)
    return model.to(device)


def check_tokenizer_fits(model: Any, tokenizer: Any, *, where: str) -> None:
    """Refuse a tokenizer that makes ids the model has no embedding for.

    Raises:
        ModelError: it has more tokens than the model.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows}",
            where=where,
            do="They do not belong together",
        )


def add_lora(model: Any, *, rank: int, alpha: int, dropout: float, target_modules: str | Sequence[str]) -> Any:
    """A fresh LoRA adapter on `model`: a `PeftModel` whose output is still the model's.

    Raises:
        ModelError: the target modules are not there.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        with quiet():
            return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(_first_line(error), where="adapter.target_modules") from error


def load_adapter(model: Any, folder: str) -> Any:
    """The adapter in `folder` on `model`, to be trained further: a `PeftModel`.

    Raises:
        ModelError: there is none, or it belongs to another model.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    weights = Path(folder) / "adapter_model.safetensors"
    if not (Path(folder) / "adapter_config.json").is_file() or not weights.is_file():
        raise ModelError(
            "no adapter here", where=folder, do="It takes adapter_config.json and adapter_model.safetensors"
        )
    other = ModelError(
        "this adapter belongs to another model", where=folder, do="Its layers or their sizes are not the model's"
    )
    try:
        with safe_open(weights, framework="pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        with quiet():
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
    except SafetensorError as error:
        raise ModelError(f"the adapter's weights cannot be read: {_first_line(error)}", where=folder) from error
    except _LOAD_ERRORS as error:
        raise other from error
    # peft only warns about weights that one side lacks.
    if there != {
        name: tuple(value.shape)
        for name, value in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }:
        raise other
    return adapted


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that will be changed, with their names."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def recompute_activations(model: Any) -> None:
    """Gradient checkpointing, of the non-reentrant kind: it works with frozen weights and hands arguments on."""
    if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.2x
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _without_dropout(model: nn.Module) -> None:
    """Policy and reference must agree at the start, and packs with rows: dropout would part them."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _require_folder(path: str) -> None:
    """What looks like a path must exist: transformers would go and ask the Hub for it."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise ModelError("no such folder", where=path, do="Name a folder with a model in it, or a Hub id")


def _first_line(error: BaseException) -> str:
    """The first line of a library's message: the rest is advice about the library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own progress bars and notes: what matters is raised."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
