"""Loads what a recipe's [model] and [adapter] name, and says clearly when it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ktotrain.errors import ModelError

# What loading raises when a folder, a Hub id or a file in it is not what it should be: anything, since libraries take
# what stands in a model's files for what it should be.
_LOAD_ERRORS = (Exception,)


def load_tokenizer(path: str, *, revision: str = "", trust_remote_code: bool = False) -> Any:
    """The tokenizer of a Hub id or folder, with a padding token.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoTokenizer

    _require_folder(path)
    beside = "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the model"
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                path, revision=revision or "main", trust_remote_code=trust_remote_code
            )
    except _LOAD_ERRORS as error:
        raise ModelError(
            f"no tokenizer can be loaded: {_first_line(error)}",
            where=path,
            do=_remote_code(error)
            or (beside if Path(path).is_dir() else "Look at the name and the connection, or name a folder"),
        ) from error
    if not len(tokenizer):  # what transformers makes up for a folder without tokenizer files
        raise ModelError("the folder has no tokenizer", where=path, do=beside)
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
        raise ModelError(
            f"no model config can be loaded: {_first_line(error)}", where=path, do=_remote_code(error)
        ) from error


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
    adapter = ModelError(
        "is an adapter, not a model",
        where=path,
        do="Name the model it was made for; to train an adapter further, name it in adapter.init",
    )
    if (Path(path) / "adapter_config.json").is_file():  # transformers would load it, pickled or not
        raise adapter
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
        raise ModelError(
            f"the model cannot be loaded: {_first_line(error)}", where=path, do=_remote_code(error)
        ) from error
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"the checkpoint lacks {len(report['missing_keys'])} weights of {type(model).__name__}: {some} …",
            where=path,
            do="Those would be random. Use a complete checkpoint of a causal language model",
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise adapter
    without_dropout(model)
    model = model.to(device)
    check_causal(model, where=path)
    return model


def check_sequences_fit(model: Any, *, largest_id: int, longest: int, where: str) -> None:
    """Refuse rows that a model has no embedding for: of a token, or of a position where positions are learned.

    What counts is what occurs: some tokenizers have a token or two more than their model, for another member of the
    family (Gemma 3 1B). Rotary positions have no end that could be told from here.

    Args:
        largest_id: of all token ids in the rows.
        longest: the most tokens of a sequence that is fed.

    Raises:
        ModelError: an embedding is missing.
    """
    tokens = model.get_input_embeddings().num_embeddings
    if largest_id >= tokens:
        raise ModelError(
            f"the rows hold token {largest_id} and the model has {tokens} tokens",
            where=where,
            do="It does not belong together with the tokenizer of model.path",
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    learned = any(
        isinstance(module, nn.Embedding) and 0 <= module.num_embeddings - positions <= 2  # OPT keeps two spare ones
        for name, module in model.named_modules()
        if "pos" in name.rpartition(".")[2] or name.endswith("wpe")
    )
    if learned and longest > positions:
        raise ModelError(
            f"the longest sequence has {longest} tokens and the model {positions} positions",
            where=where,
            do=f"Set data.max_length to {positions} or less",
        )


def router_note(config: Any) -> str:
    """What is to be said of a model whose routers have a load-balancing loss of their own, or "".

    TRL 1.16 adds it wherever the config knows `output_router_logits` and has a coefficient, whether or not it is on.
    """
    text = config.get_text_config()
    coefficient = getattr(text, "router_aux_loss_coef", None) or 0.0
    if not hasattr(text, "output_router_logits") or not coefficient:
        return ""
    return (
        f"the routers' load-balancing loss (router_aux_loss_coef = {coefficient:g} in the model's config) is not "
        "added, since it depends on which tokens share a pass; TRL adds it, so its losses differ"
    )


def check_causal(model: Any, *, where: str) -> None:
    """Refuse a model whose tokens see what comes after them: its scores would be of words it has already read.

    Raises:
        ModelError: another last token changes what is predicted before it.
    """
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.arange(8, device=device).remainder(vocabulary)[None]
    other = ids.clone()
    other[0, -1] = vocabulary - 1
    training = model.training
    model.eval()
    with torch.no_grad():
        logits, changed = (model(input_ids=one, use_cache=False).logits[0, :-1].float() for one in (ids, other))
    model.train(training)
    # In a causal model these are the same but for rounding: experts see other numbers of tokens.
    rounding = 1e-4 if next(model.parameters()).dtype == torch.float32 else 2e-2
    if (logits - changed).abs().max() > rounding * logits.std():
        raise ModelError(
            f"{type(model).__name__} is not causal: its tokens see those after them",
            where=where,
            do="Name a causal language model; encoders such as BERT cannot be trained to complete prompts",
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


def without_dropout(model: nn.Module) -> None:
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


def _remote_code(error: BaseException) -> str:
    """Advice for a model that brings code of its own, or ""."""
    if "trust_remote_code" not in str(error):
        return ""
    return "Read that code; to let it run on this machine, set model.trust_remote_code = true"


def _first_line(error: BaseException) -> str:
    """The first line of a library's message: the rest is advice about the library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own progress bars and notes: what matters is raised."""
    import warnings

    from transformers.utils import logging

    hub = getLogger("huggingface_hub")  # tells of each of its retries
    hub_level = hub.level
    hub.setLevel("ERROR")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(hub_level)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
