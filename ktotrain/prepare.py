"""Everything a run needs before its first step: rows and plan (cheap, enough for a dry run), then the models."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from ktotrain import data
from ktotrain.attention import refusal
from ktotrain.batch import TokenizedRow, branch_of
from ktotrain.errors import DataError, RecipeError, TrainingError
from ktotrain.known import Agree, Known, Sought, alone, model_files
from ktotrain.last_layer import install
from ktotrain.losses import LOSSES
from ktotrain.model import (
    add_lora,
    check_sequences_fit,
    load_adapter,
    load_model,
    load_tokenizer,
    recompute_activations,
    trained_parameters,
)
from ktotrain.packing import pack
from ktotrain.plan import Step, plan_run
from ktotrain.probe import LayoutChoice, choose_layout
from ktotrain.recipe import Recipe
from ktotrain.reference import (
    AdapterAsLoaded,
    AdapterOff,
    AsLoaded,
    FrozenAdapter,
    FrozenCopy,
    Reference,
    twin_of,
)
from ktotrain.samples import Prompt
from ktotrain.scorer import Scorer, find_decoder
from ktotrain.step import Objective
from ktotrain.token_cache import open_cache

Place: TypeAlias = Callable[[Any], None]

# Rows of all steps together, each time one is trained on: the plan of a run is made whole before it begins.
MOST_PLANNED = 100_000_000
Turn: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class RunData:
    """Tokenized rows, the plan over them, and the objective with its weights as numbers."""

    tokenizer: Any
    train: data.Tokenized
    evaluation: data.Tokenized | None
    steps: list[Step]
    eval_steps: list[Step]
    objective: Objective
    chat: bool
    prompts: Sequence[Prompt]
    """The prompts that samples are picked from: those of the evaluation rows if there are any."""
    token_notes: Sequence[str] = ()
    """What is to be said of the token cache."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The model in training: `model` is what is saved (a PeftModel or the model itself), `base` has the LM head."""

    model: Any
    base: Any
    scorer: Scorer
    reference: Reference
    choice: LayoutChoice
    parameters: list[tuple[str, torch.nn.Parameter]]
    known: Known | None = None
    """The reference's scores from earlier runs, and those to compute; None if it stays beside the policy."""


def refuse_what_is_missing(recipe: Recipe) -> None:
    """Say at once what a recipe asks for and this version cannot do, rather than ignore it.

    Raises:
        RecipeError: there is such a key.
    """
    problems = []
    if recipe.model.quantization != "none":
        problems.append('model.quantization: only "none" is there so far')
    for name in recipe.train.trackers:
        module = {"comet_ml": "comet_ml", "dvclive": "dvclive"}.get(name, name)
        if importlib.util.find_spec(module) is None:
            problems.append(f"train.trackers: {name} is not installed")
    if trouble := refusal(recipe.model.attention, torch.accelerator.current_accelerator() or torch.device("cpu")):
        problems.append(f"model.attention: {trouble}")
    if problems:
        raise RecipeError("\n".join(problems))


def prepare_data(recipe: Recipe) -> RunData:
    """Read, tokenize and plan.

    Raises:
        DataError: no usable rows, or one class only.
        TrainingError: `pack_tokens` is below the longest row.
        ModelError: no tokenizer.
    """
    tokenizer = load_tokenizer(
        recipe.model.path, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code
    )
    rows = data.read(recipe.data.train)
    cache, trouble = open_cache(tokenizer)
    train = data.tokenize(rows, tokenizer, max_length=recipe.data.max_length, cache=cache)
    where = ", ".join(recipe.data.train)
    if not train.rows:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in train.dropped.items())
        raise DataError(f"all {len(rows)} rows were dropped ({reasons})", where=where, do="Raise data.max_length")
    data.require_both_classes(train, where=where)
    eval_rows = data.read(recipe.data.eval) if recipe.data.eval else []
    if eval_rows and eval_rows[0].kind != rows[0].kind:
        raise DataError(
            f"the training rows are {rows[0].kind} and the evaluation rows {eval_rows[0].kind}",
            where=", ".join(recipe.data.eval),
            do="Make them one kind with `ktodata unpair FILE --as text` or `--as chat`",
        )
    evaluation = None
    if eval_rows:
        evaluation = data.tokenize(eval_rows, tokenizer, max_length=recipe.data.max_length, cache=cache)
    _require_bounded(recipe, len(train.rows))
    steps = plan_run(
        [row.group for row in train.rows],
        [row.label for row in train.rows],
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        shuffle=recipe.data.shuffle,
        epochs=recipe.train.epochs,
        max_steps=recipe.train.max_steps,
        pair_share=recipe.loss.z_ref_share,
        fixed_pairs=recipe.loss.z_ref_pairs == "fixed",
    )
    asked, there = (evaluation, eval_rows) if evaluation else (train, rows)
    prompts: list[Any] = [there[place].prompt for place in asked.places]
    run = RunData(
        tokenizer=tokenizer,
        train=train,
        evaluation=evaluation,
        steps=steps,
        eval_steps=_eval_steps(evaluation, recipe.train.batch_size),
        objective=_objective(recipe, train),
        chat=rows[0].kind == "chat",
        prompts=prompts,
        token_notes=[trouble] if trouble else list(cache.trouble.values()) if cache else [],
    )
    _require_pack_tokens(run, recipe)
    return run


def _require_bounded(recipe: Recipe, rows: int) -> None:
    """Refuse a run without an end, such as a number with some digits too many makes.

    Raises:
        RecipeError: it is one.
    """
    settings = recipe.train
    asked = settings.max_steps * min(settings.batch_size, rows) if settings.max_steps else settings.epochs * rows
    if asked > MOST_PLANNED:
        name = "max_steps" if settings.max_steps else "epochs"
        raise RecipeError(
            f"[train] {name} is {getattr(settings, name)}, which makes {asked:,} rows to train on, each time one is "
            f"counted; a run has {MOST_PLANNED:,} at most"
        )


def _as_it_is(_: Any) -> None:
    """Nothing: the model computes where it was loaded to."""


def prepare_policy(
    recipe: Recipe,
    run: RunData,
    device: torch.device,
    place: Place = _as_it_is,
    turn: Turn = contextlib.nullcontext,
    agree: Agree = alone,
) -> Policy:
    """Load the policy, choose the layout, and make the reference.

    A second model, or a copy, is made only where it is asked for online or where scores of it are missing.

    Args:
        device: where models are loaded to.
        place: what brings a loaded model, adapters on it, to where it computes: in shards over processes, say.
        turn: within it a model is loaded and placed.
        agree: what makes all processes go by what the main one finds.

    Raises:
        ModelError: something cannot be loaded, or does not fit together.
    """
    settings = recipe.model
    adapter = recipe.adapter
    with turn():
        base = load_model(
            settings.path,
            dtype=settings.dtype,
            trained=adapter is None,
            device=device,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
        _check_fit(base, run, recipe, where=settings.path)
        model = base
        if adapter is not None and adapter.init:
            model = load_adapter(base, adapter.init)
        elif adapter is not None:
            model = add_lora(
                base,
                rank=adapter.rank,
                alpha=adapter.alpha,
                dropout=adapter.dropout,
                target_modules=adapter.target_modules,
            )
        # Computed before the first step, "initial" is the policy itself; online it must be kept as it is now.
        kept = settings.reference == "initial" and settings.reference_logps == "online"
        twin = copy.deepcopy(base) if kept and adapter is None else None
        frozen = FrozenAdapter(model) if kept and adapter is not None and adapter.init else None
        place(base)
        if twin is not None:
            place(twin)
    choice = choose_layout(base, attention=settings.attention, **_circumstances(recipe, run))
    scorer = Scorer(base, choice.head)
    reference: Reference | None
    if settings.reference != "initial":
        reference = None
    elif twin is not None:
        if choice.attention != twin.config._attn_implementation:
            twin.set_attn_implementation(choice.attention)
        if scorer.spares_last_layer:
            install(find_decoder(twin), twin.config.get_text_config().num_hidden_layers)
        reference = twin_of(twin, choice.head)
    elif frozen is not None:
        frozen.scorer = scorer
        reference = frozen
    elif adapter is None:
        reference = AsLoaded(scorer)
    else:
        reference = AdapterAsLoaded(model, scorer) if adapter.init else AdapterOff(model, scorer)
    known: Known | None = None
    if reference is None:
        reference, known = _other_reference(recipe, run, device, choice, place, turn, agree)
    elif settings.reference_logps != "online":
        known = _sought(recipe, run, choice, device, agree).of(reference)
    if settings.gradient_checkpointing:
        recompute_activations(base)
    model.train()
    return Policy(model, base, scorer, reference, choice, trained_parameters(model), known)


def _eval_steps(evaluation: data.Tokenized | None, batch_size: int) -> list[Step]:
    """Evaluation is planned like an epoch of its own, always the same one."""
    if evaluation is None:
        return []
    if not evaluation.rows:
        raise DataError("no evaluation row is left: all prompts fill data.max_length", do="Raise data.max_length")
    return plan_run(
        [row.group for row in evaluation.rows],
        [row.label for row in evaluation.rows],
        batch_size=batch_size,
        seed=0,
        shuffle=True,
        epochs=1,
        max_steps=0,
    )


def _objective(recipe: Recipe, train: data.Tokenized) -> Objective:
    desirable, undesirable = recipe.loss.desirable_weight, recipe.loss.undesirable_weight
    if desirable == "auto" or undesirable == "auto":
        desirable, undesirable = data.rule_weights(train)
    return Objective(LOSSES[recipe.loss.kind], recipe.loss.beta, desirable, undesirable)


def _require_pack_tokens(run: RunData, recipe: Recipe) -> None:
    """Refuse a `pack_tokens` that some sequence of the run exceeds, before anything is loaded."""
    need, name = longest_sequence(run, recipe)
    if need > recipe.train.pack_tokens:
        raise TrainingError(
            f"pack_tokens is {recipe.train.pack_tokens} and the longest sequence has {need} tokens ({name})",
            where="train.pack_tokens",
            do=f"Set it to {need} or more, or data.max_length to {recipe.train.pack_tokens} or less",
        )


def longest_sequence(run: RunData, recipe: Recipe) -> tuple[int, str]:
    """Tokens of the longest sequence that is fed, and whose prompt it has.

    A mismatched pair can be longer than any row: a long prompt may meet a long completion.
    """
    need, name = 0, ""
    for rows, steps in ((run.train.rows, run.steps), (run.evaluation.rows if run.evaluation else [], run.eval_steps)):
        for step in steps:
            pairs = list(zip(step.rows, step.rows, strict=True))
            if run.objective.loss.estimates_z_ref:
                pairs += [(step.rows[place], lender) for place, lender in step.pairs]
            for owner, lender in pairs:
                fed = _fed(rows[owner], rows[lender], recipe.data.max_length)
                if fed > need:
                    need, name = fed, rows[owner].name
    return need, name


def _check_fit(model: Any, run: RunData, recipe: Recipe, *, where: str) -> None:
    rows = run.train.rows + (run.evaluation.rows if run.evaluation else [])
    largest = max(int(ids.max()) for row in rows for ids in (row.prompt_ids, row.completion_ids))
    check_sequences_fit(model, largest_id=largest, longest=longest_sequence(run, recipe)[0], where=where)


def _fed(owner: TokenizedRow, lender: TokenizedRow, max_length: int) -> int:
    prompt = len(owner.prompt_ids)
    return prompt + min(len(lender.completion_ids), max_length - prompt) - 1


def _circumstances(recipe: Recipe, run: RunData) -> dict[str, Any]:
    """What the choice of a layout depends on besides the model: precision, one of the packs, and the longest row."""
    step = run.steps[0]
    rows = [run.train.rows[place] for place in step.rows]
    branches = [branch_of(place, row, row, max_length=recipe.data.max_length) for place, row in enumerate(rows)]
    units = pack(branches, pack_tokens=recipe.train.pack_tokens, layout="shared")[0].units
    precisions = {"bf16": torch.bfloat16, "fp16": torch.float16}
    longest = longest_sequence(run, recipe)[0]
    return {"precision": precisions.get(recipe.train.precision), "units": units, "longest": longest}


def _sought(recipe: Recipe, run: RunData, choice: LayoutChoice, device: torch.device, agree: Agree) -> Sought:
    """The reference scores that a run needs."""
    plans = [(run.steps, run.train.rows)]
    if run.evaluation is not None:
        plans.append((run.eval_steps, run.evaluation.rows))
    # Which kernel is the fastest is measured on a GPU, and may turn out otherwise the next time.
    measured = recipe.model.attention == "auto" and device.type != "cpu"
    return Sought(
        plans,
        recipe.data.max_length,
        run.objective.loss,
        precision=recipe.train.precision,
        way=f"{choice.layout} {'auto' if measured else choice.attention} {device.type}",
        agree=agree,
    )


def _other_reference(
    recipe: Recipe,
    run: RunData,
    device: torch.device,
    choice: LayoutChoice,
    place: Place,
    turn: Turn,
    agree: Agree,
) -> tuple[Reference, Known | None]:
    """Another model, loaded if it is needed, and what is known of it."""
    settings = recipe.model
    files = agree(
        lambda: model_files(settings.reference, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
    )

    def load() -> Reference:
        return FrozenCopy(_other_model(recipe, run, device, choice, place, turn), files.content)

    if settings.reference_logps == "online":
        return load(), None
    return _sought(recipe, run, choice, device, agree).of_files(files, load)


def _other_model(
    recipe: Recipe, run: RunData, device: torch.device, choice: LayoutChoice, place: Place, turn: Turn
) -> Scorer:
    with turn():
        model = load_model(
            recipe.model.reference,
            dtype=recipe.model.dtype,
            trained=False,
            device=device,
            trust_remote_code=recipe.model.trust_remote_code,
        )
        _check_fit(model, run, recipe, where=f"model.reference {recipe.model.reference}")
        place(model)
    other = choose_layout(model, attention=recipe.model.attention, **_circumstances(recipe, run))
    if other.layout != choice.layout:
        # One layout for both: packs are made once. The slower one serves every model.
        raise RecipeError(
            f"the policy runs in the {choice.layout} layout and the reference only in the {other.layout} one "
            f"({other.reason})",
            where="model.reference",
            do='Set model.attention = "padded"',
        )
    return Scorer(model, other.head)
