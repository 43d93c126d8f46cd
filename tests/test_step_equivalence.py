"""One thing computed in several ways comes out the same: layouts, packs, references (DESIGN section 8)."""

import contextlib
import copy
import dataclasses
import weakref
from typing import Any

import pytest
import torch
from support import StepNumbers, random_rows, run_steps, tiny_llama

import ktotrain.step
from ktotrain.batch import PackedBatch, branch_of
from ktotrain.losses import LOSSES
from ktotrain.model import add_lora, recompute_activations
from ktotrain.packing import pack
from ktotrain.plan import plan_epoch
from ktotrain.probe import choose_layout, verified_head
from ktotrain.reference import AdapterOff, FrozenAdapter, FrozenCopy
from ktotrain.scorer import Scorer
from ktotrain.step import Machinery, Objective, Packing, StepPacks, build_packs, run_step

# Contiguous and scattered prompt groups, and singles: three steps of 8 rows.
GROUPS = [0, 0, 0, 1, 2, 3, 2, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 12, 13, 14, 15, 16, 17]
# Desirable rows count more, so that likelihoods rise and the reference point leaves its clamp at 0.
HOW: dict[str, Any] = {"beta": 0.5, "weights": (2.0, 0.2), "learning_rate": 2e-3, "steps": 3}


def agree(ours: list[StepNumbers], theirs: list[StepNumbers]) -> None:
    assert len(ours) == len(theirs) == 3
    for a, b in zip(ours, theirs, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=2e-5)
        assert a.kl == pytest.approx(b.kl, rel=1e-4, abs=1e-4)
        torch.testing.assert_close(a.policy_logps, b.policy_logps, rtol=1e-5, atol=1e-4)
        assert a.gradients.keys() == b.gradients.keys()
        for name, gradient in a.gradients.items():
            torch.testing.assert_close(gradient, b.gradients[name], rtol=1e-3, atol=2e-6, msg=name)


def trained(**how: Any) -> list[StepNumbers]:
    return run_steps(tiny_llama(), random_rows(GROUPS), **HOW, **how)


@pytest.fixture(scope="module")
def padded() -> list[StepNumbers]:
    return trained(attention="padded")


def test_the_run_is_worth_comparing(padded: list[StepNumbers]) -> None:
    """Rewards, the reference point and gradients are away from zero: equality of zeros would show nothing."""
    assert max(step.kl for step in padded) > 0.1
    assert all(step.log_ratios.abs().max() > 0.1 for step in padded[1:])
    assert all(step.grad_norm > 0.01 for step in padded)


@pytest.mark.parametrize(
    "how",
    [
        {"layout": "shared"},
        {"layout": "shared", "follow": False},
        {"layout": "packed"},
        {"layout": "shared", "pack_tokens": 80},
        {"layout": "packed", "pack_tokens": 60},
        {"attention": "padded", "pack_tokens": 60},
    ],
    ids=str,
)
def test_layouts_and_packs(how: dict[str, Any], padded: list[StepNumbers]) -> None:
    agree(trained(**how), padded)


def test_gradient_checkpointing_changes_nothing(padded: list[StepNumbers]) -> None:
    model = tiny_llama()
    recompute_activations(model)
    agree(run_steps(model, random_rows(GROUPS), **HOW), padded)


def lora(model: Any) -> Any:
    torch.manual_seed(1)
    return add_lora(model, rank=4, alpha=8, dropout=0.0, target_modules="all-linear")


def test_adapter_off_is_a_frozen_copy() -> None:
    rows = random_rows(GROUPS)
    base = tiny_llama()
    twin = copy.deepcopy(base)
    adapted = lora(base)
    off = run_steps(adapted, rows, reference=AdapterOff(adapted, Scorer(base, verified_head(base))), **HOW)
    other = tiny_llama()
    choose_layout(twin, attention="auto")  # a model is fed packs only after it was set to ragged attention
    copied = run_steps(lora(other), rows, reference=FrozenCopy(Scorer(twin, verified_head(twin))), **HOW)
    agree(off, copied)
    assert off[2].log_ratios.abs().max() > 1e-3


def test_frozen_adapter_is_a_frozen_copy_of_the_adapted_model() -> None:
    """A loaded adapter that is not zero: neither adapter-off nor the trained adapter would do as reference."""
    rows = random_rows(GROUPS)

    def adapted() -> Any:
        model = lora(tiny_llama())
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    ours = adapted()
    base = ours.get_base_model()
    before = {name for name, p in ours.named_parameters() if p.requires_grad}
    reference = FrozenAdapter(ours, Scorer(base, verified_head(base)))
    beside = run_steps(ours, rows, reference=reference, **HOW)
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == before
    twin = adapted().merge_and_unload()
    theirs = run_steps(
        adapted(), rows, reference=FrozenCopy(Scorer(twin, verified_head(twin))), attention="padded", **HOW
    )
    agree(beside, theirs)
    assert beside[0].log_ratios.abs().max() < 1e-4
    assert beside[2].log_ratios.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"alpha_pattern": {"q_proj": 512}}, True),
        ({"use_rslora": True}, True),
        ({"lora_alpha": 99}, True),
        ({"base_model_name_or_path": "elsewhere", "inference_mode": True}, False),
    ],
    ids=str,
)
def test_a_frozen_adapters_settings_are_what_its_scores_depend_on(change: dict[str, Any], matters: bool) -> None:
    """A cache is known by them: two adapters of the same weights and other scales must not share one."""

    def settings(**changed: Any) -> str:
        model = lora(tiny_llama())
        base = model.get_base_model()
        vars(model.peft_config["default"]).update(changed)
        return FrozenAdapter(model, Scorer(base, verified_head(base))).settings()

    assert settings() == settings()
    assert (settings(**change) != settings()) == matters


def test_a_packs_graph_is_gone_when_the_next_one_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pack_tokens` bounds memory: that of one pack, not of two."""
    before: list[weakref.ref[Any]] = []
    scored = ktotrain.step._score

    def watched(*arguments: Any, **named: Any) -> Any:
        assert not any(kept() is not None for kept in before)
        scores = scored(*arguments, **named)
        before.append(weakref.ref(scores))
        return scores

    monkeypatch.setattr(ktotrain.step, "_score", watched)
    run_steps(tiny_llama(), random_rows(range(8)), pack_tokens=80, steps=1)
    assert len(before) > 1


def test_the_reference_point_is_the_mean_over_the_pairs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs for four rows, as `loss.z_ref_share` makes them, each 2 nats apart from the reference."""
    rows = random_rows([0, 1, 2, 3])
    lent = [branch_of(i, rows[i], rows[i - 1], max_length=64) for i in (0, 2)]
    packs = StepPacks(
        reference=[],
        known_2n=torch.zeros(8),
        graded=[],
        mismatched=pack(lent, pack_tokens=1000, layout="padded"),
        following=None,
        labels_n=torch.tensor([True, False, True, False]),
        pairs=2,
        row_tokens=0,
    )
    monkeypatch.setattr("ktotrain.step.no_grad_scores", lambda _, batch: torch.full((len(batch.rows),), 2.0))
    nothing: Any = None
    machinery = Machinery(nothing, nothing, torch.device("cpu"), lambda values: values, contextlib.nullcontext)
    scores = run_step(packs, machinery, Objective(LOSSES["kto"], 0.1, 1.0, 1.0), learn=None)
    assert scores.raw == scores.z_ref == 2.0


@dataclasses.dataclass
class Fed:
    """One call of the decoder: how many tokens, and whether autograd was noting it."""

    tokens: int
    graded: bool


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Fed]:
    """Each call of any scorer's decoder, in order."""
    calls: list[Fed] = []
    inputs = Scorer._inputs

    def noted(scorer: Scorer, batch: PackedBatch, ragged: Any) -> dict[str, Any]:
        calls.append(Fed(batch.positions, torch.is_grad_enabled()))
        return inputs(scorer, batch, ragged)

    monkeypatch.setattr(Scorer, "_inputs", noted)
    return calls


def test_a_prompt_is_encoded_once_a_pass_and_not_again_for_its_mismatched_pairs(fed: list[Fed]) -> None:
    rows = random_rows(GROUPS[:8])
    prompts = {row.group: len(row.prompt_ids) for row in rows}
    run_steps(tiny_llama(), rows, steps=1)
    reference, graded, mismatched = fed[-3:]  # those before are the probe's
    assert [one.graded for one in fed[-3:]] == [False, True, False]
    completions = sum(len(row.completion_ids) for row in rows)
    # The last token of a completion predicts nothing, and its first is predicted by the prompt's last.
    assert graded.tokens == sum(prompts.values()) + completions - len(rows)
    assert mismatched.tokens == completions - len(rows)
    assert reference.tokens == graded.tokens + mismatched.tokens


def test_evaluation_notes_nothing_for_a_backward_pass(fed: list[Fed]) -> None:
    rows, model = random_rows(GROUPS[:8]), tiny_llama()
    choice = choose_layout(model, attention="auto")
    packing = Packing(512, 100_000, choice.layout, follow=True)
    groups, labels = [row.group for row in rows], [row.label for row in rows]
    (step,) = plan_epoch(groups, labels, batch_size=8, seed=0, epoch=0, shuffle=False)
    packs = build_packs(step, rows, packing, LOSSES["kto"])
    assert packs.following is not None
    scorer = Scorer(model, choice.head)
    reference = FrozenCopy(Scorer(copy.deepcopy(model), choice.head))
    machinery = Machinery(scorer, reference, torch.device("cpu"), lambda values: values, contextlib.nullcontext)
    del fed[:]
    run_step(packs, machinery, Objective(LOSSES["kto"], 0.1, 1.0, 1.0), learn=None)
    assert [one.graded for one in fed] == [False] * 3
