"""The back end transformers: what a reply depends on, where it ends, which models it can use, killed and resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forked
import pytest
from click.testing import CliRunner, Result
from forked import Forked
from support import TEMPLATE, byte_tokenizer, model_folder, tiny_llama

from ktodata.cli import main
from ktodata.errors import ModelError, UsageError
from ktodata.generate.contract import TOO_LONG, UNRENDERED, Outcome, Reply, Request, Sampling
from ktodata.generate.tokens import Tokens, hash_folder
from ktodata.generate.transformers import Transformers, batches
from ktodata.io import read_rows, write_rows
from ktodata.schema import Message, Text, make_row

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart" / "model"
STUB = ROOT.parent / "shared" / "tools" / "hub_stub.py"
WILD = Sampling(temperature=1.3, top_p=0.95, max_tokens=16)


def chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def requests(count: int = 10) -> list[Request]:
    return [
        Request(f"k{n}", chat(f"what about {'the pizza and ' * (n % 5)}number {n}?"), 100 + n) for n in range(count)
    ]


def ask(model: Path, asked: list[Request] | None = None, **settings: Any) -> dict[str, Outcome]:
    settings = {"sampling": WILD, "batch": 4, "device": "cpu", **settings}
    back_end = Transformers(str(model), **settings)
    return {request.key: outcome for request, outcome in back_end.generate(asked or requests(), known=())}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer has no chat template."""
    folder = model_folder(tmp_path_factory.mktemp("base"))
    for name in ("chat_template.jinja",):
        (folder / name).unlink(missing_ok=True)
    byte_tokenizer(None).save_pretrained(folder)
    return folder


# -------------------------------------------------------------------------------- what a reply depends on


def test_replies_do_not_depend_on_batches_or_order() -> None:
    one = ask(QUICKSTART, batch=1)
    assert len({outcome.text for outcome in one.values() if isinstance(outcome, Reply)}) >= 9
    assert ask(QUICKSTART, batch=4) == one
    assert ask(QUICKSTART, requests()[::-1], batch=10) == one
    assert ask(QUICKSTART, requests()[3:4]) == {"k3": one["k3"]}


def test_continuous_batching_gives_the_replies_of_static_batches() -> None:
    sampling = Sampling(temperature=1.2, top_k=200, top_p=0.9, min_p=0.01, max_tokens=16)
    static = ask(QUICKSTART, sampling=sampling)
    assert ask(QUICKSTART, sampling=sampling, batching="continuous", batch=3) == static
    greedy = Sampling(temperature=0, max_tokens=16)
    assert ask(QUICKSTART, sampling=greedy, batching="continuous") == ask(QUICKSTART, sampling=greedy)
    with pytest.raises(UsageError, match="no repetition penalty"):
        ask(QUICKSTART, sampling=Sampling(repetition_penalty=1.1), batching="continuous")


def test_the_seed_decides() -> None:
    one = ask(QUICKSTART)
    other = ask(QUICKSTART, [Request(request.key, request.prompt, request.seed + 1000) for request in requests()])
    assert sum(one[key] != other[key] for key in one) >= 9


def test_a_penalty_does_not_see_the_padding() -> None:
    sampling = Sampling(temperature=1.0, repetition_penalty=1.5, max_tokens=16)
    assert ask(QUICKSTART, sampling=sampling, batch=10) == ask(QUICKSTART, sampling=sampling, batch=1)


def test_settings_are_heard() -> None:
    greedy = ask(QUICKSTART, sampling=Sampling(temperature=0, max_tokens=12))
    assert ask(QUICKSTART, sampling=Sampling(top_k=1, max_tokens=12)) == greedy
    assert ask(QUICKSTART, sampling=Sampling(top_p=1e-6, max_tokens=12)) == greedy
    assert ask(QUICKSTART, sampling=Sampling(min_p=1.0, max_tokens=12)) == greedy
    short = ask(QUICKSTART, sampling=Sampling(temperature=1.3, max_tokens=3))
    assert sum(isinstance(outcome, Reply) and outcome.finish == "length" for outcome in short.values()) >= 7


def test_known_replies_cost_nothing_and_batches_stay_what_they_are() -> None:
    asked = requests()
    back_end = Transformers(str(QUICKSTART), sampling=WILD, batch=4, device="cpu")
    assert list(back_end.generate(asked, known={request.key for request in asked})) == []
    assert back_end._loaded is None
    whole = ask(QUICKSTART, asked)
    known = {f"k{n}" for n in range(10) if n % 3}
    part = {request.key: outcome for request, outcome in back_end.generate(asked, known=known)}
    assert part == {key: whole[key] for key in whole if key not in known}


def test_the_longest_come_first_and_a_batch_has_one_room() -> None:
    tokens = Tokens(str(QUICKSTART))
    asked = [Request(f"k{n}", "word " * n, n) for n in range(1, 60)]
    encoded = [tokens.encode(request, max_tokens=220) for request in asked]
    cut = list(batches([one for one in encoded if not hasattr(one, "reason")], 4))  # type: ignore[misc]
    lengths = [len(one.ids) for batch in cut for one in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len({one.room for one in batch}) == 1 for batch in cut)
    assert all(len(one.ids) + one.room <= 256 for batch in cut for one in batch)
    assert len({one.room for batch in cut for one in batch}) >= 2


# -------------------------------------------------------------------------------- where a reply ends


def test_a_base_model_gets_a_transcript_and_stops_before_the_next_turn(base_model: Path) -> None:
    tokens = Tokens(str(base_model))
    one = tokens.encode(Request("k", chat("hi"), 1), max_tokens=8)
    assert not hasattr(one, "reason")
    assert tokens.tokenizer.decode(one.ids) == "User: hi\n\nAssistant:"  # type: ignore[union-attr]
    assert Tokens(str(QUICKSTART), chat="transcript").by_template is False
    with pytest.raises(ModelError, match="has no chat template"):
        Tokens(str(base_model), chat="template")


def test_generation_ends_at_a_stop_string(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random model writes no turn markers, so any two letters that it does write stand for one.
    from ktodata.generate import tokens

    free = ask(base_model, sampling=Sampling(max_tokens=64))
    stops = {key: outcome.text[10:12] for key, outcome in free.items() if isinstance(outcome, Reply)}
    assert all(len(stop) == 2 for stop in stops.values())
    wanted = "\n".join(stops.values()).split("\n")[0]
    monkeypatch.setattr(tokens, "transcript", lambda messages: ("User: x\n\nAssistant:", (wanted,)))
    before = ask(base_model, [Request("k0", requests()[0].prompt, 100)], sampling=Sampling(max_tokens=64))
    reply = before["k0"]
    assert isinstance(reply, Reply)
    assert wanted not in reply.text


def test_text_is_fed_verbatim() -> None:
    tokens = Tokens(str(QUICKSTART))
    for text in ("\n\nHuman: hi\n\nAssistant:", "  leading", "<|user|>hi<|end|><|assistant|>"):
        one = tokens.encode(Request("k", text, 1), max_tokens=8)
        assert tokens.tokenizer.decode(one.ids) == text  # type: ignore[union-attr]
    assert tokens.encode(Request("k", "", 1), max_tokens=8).ids  # type: ignore[union-attr]


def test_a_prompt_that_fills_the_context_is_a_skip() -> None:
    asked = [Request("long", "word " * 400, 1), Request("odd", "word " * 126, 2), Request("short", "hi", 3)]
    found = ask(QUICKSTART, asked, sampling=Sampling(max_tokens=200))
    assert found["long"] == TOO_LONG
    assert isinstance(found["short"], Reply)
    assert isinstance(found["odd"], Reply)


def test_learned_positions_are_never_exceeded(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=261, n_positions=48, n_embd=16, n_layer=1, n_head=2, eos_token_id=2, bos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    asked = [Request(f"k{n}", "x" * n, n) for n in range(1, 52, 2)]
    found = ask(tmp_path, asked, sampling=Sampling(max_tokens=40))
    assert sum(isinstance(outcome, Reply) for outcome in found.values()) == 24
    assert found["k47"] != TOO_LONG
    assert found["k49"] == TOO_LONG


def test_a_template_that_refuses_a_conversation_is_a_skip(tmp_path: Path) -> None:
    model_folder(tmp_path)
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    byte_tokenizer(strict).save_pretrained(tmp_path)
    asked = [Request("system", [{"role": "system", "content": "x"}, *chat("y")], 1), Request("plain", chat("y"), 2)]
    found = ask(tmp_path, asked)
    assert found["system"] == UNRENDERED
    assert isinstance(found["plain"], Reply)


# -------------------------------------------------------------------------------- which models it can use


def test_the_identity_of_a_folder_is_its_content(tmp_path: Path) -> None:
    shutil.copytree(QUICKSTART, tmp_path / "copy")
    assert hash_folder(tmp_path / "copy") == hash_folder(QUICKSTART) == Tokens(str(QUICKSTART)).revision
    (tmp_path / "copy" / "README.md").write_text("a card", encoding="utf-8")
    assert hash_folder(tmp_path / "copy") == hash_folder(QUICKSTART)
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert hash_folder(tmp_path / "copy") != hash_folder(QUICKSTART)


def test_an_adapter_is_a_model(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = model_folder(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(
        tiny_llama(vocab_size=261), LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "adapter")
    byte_tokenizer().save_pretrained(tmp_path / "adapter")
    greedy = Sampling(temperature=0, max_tokens=16)
    assert ask(tmp_path / "adapter", sampling=greedy) != ask(base, sampling=greedy)


BREAKAGES = [
    pytest.param("empty", "the folder holds no model: it has no config.json", id="no model"),
    pytest.param("tokenizer", "the model has no tokenizer. Put the tokenizer's files", id="no tokenizer"),
    pytest.param("weights", "the model cannot be loaded", id="no weights"),
    pytest.param("torn", "the model cannot be loaded", id="torn weights"),
    pytest.param("config", "no model can be loaded", id="torn config"),
    pytest.param("fewer", "the checkpoint lacks", id="weights missing"),
]


@pytest.mark.parametrize(("broken", "message"), BREAKAGES)
def test_folders_that_are_no_models(broken: str, message: str, tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(QUICKSTART, folder)
    if broken == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "readme.txt").write_text("x", encoding="utf-8")
    elif broken == "tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    elif broken == "weights":
        (folder / "model.safetensors").unlink()
    elif broken == "torn":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif broken == "config":
        (folder / "config.json").write_text("{", encoding="utf-8")
    else:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = run(source, f"base.model={folder}")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f"error: {folder}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not source.with_name("out.jsonl").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("base.max_tokens=8", "base.model is not given"),
        ("base.model=./nowhere", "./nowhere: no such folder"),
        (f"base.model={QUICKSTART / 'config.json'}", "is a file, not a folder"),
        ("base.backend=openai", "base.url is not given"),
        ("base.temprature=1", "Did you mean 'temperature'?"),
        ("base.top_p=0", "It must be a number in (0, 1]"),
    ],
)
def test_options_that_do_not_fit(setting: str, message: str, source: Path) -> None:
    result = run(source, setting)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_vllm_that_is_not_installed(source: Path) -> None:
    result = run(source, f"base.model={QUICKSTART}", "base.backend=vllm")
    assert result.exit_code == 1
    assert "vLLM is not installed. pip install 'ktokit[vllm]'" in result.stderr


# -------------------------------------------------------------------------------- the command line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [
        make_row(chat(f"prompt {n}"), [{"role": "assistant", "content": f"fine {n}"}], True, source="s", origin="pair")
        for n in range(12)
    ]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    return tmp_path / "rows.jsonl"


def arguments(source: Path, *settings: str) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["negatives", str(source), "-o", str(source.with_name("out.jsonl")), "--strategy", "base", *sets]


def run(source: Path, *settings: str) -> Result:
    return CliRunner().invoke(main, arguments(source, *settings))


def test_from_the_command_line(source: Path) -> None:
    result = CliRunner().invoke(
        main, [*arguments(source, f"base.model={QUICKSTART}", "base.max_tokens=24"), "--per-row", "2"]
    )
    assert result.exit_code == 0, result.output
    assert "made    24 by base" in result.stderr
    rows = read_rows(str(source.with_name("out.jsonl")))
    assert sum(not row.label for row in rows) == 24
    assert not list(source.parent.glob("*.journal")), "the output holds what it did"


def test_text_rows_and_a_base_model(tmp_path: Path, base_model: Path) -> None:
    texts: list[Text] = [f"\n\nHuman: what is {n}?\n\nAssistant:" for n in range(6)]
    rows = [make_row(text, f" It is {n}.", True, source="s", origin="pair") for n, text in enumerate(texts)]
    write_rows(rows, str(tmp_path / "rows.jsonl"))
    result = run(tmp_path / "rows.jsonl", f"base.model={base_model}", "base.max_tokens=16", "base.cut=keep")
    assert result.exit_code == 0, result.output
    assert "made    6 by base" in result.stderr


@pytest.mark.slow
def test_killed_five_times_it_gives_what_an_undisturbed_run_gives(source: Path) -> None:
    rng, out = random.Random(3), source.with_name("out.jsonl")
    settings = [f"base.model={QUICKSTART}", "base.max_tokens=40", "base.batch=4"]
    rows = read_rows(str(ROOT / "recipes" / "quickstart" / "chats.jsonl"))[:60]
    write_rows(rows, str(source))
    command = ["-m", "ktodata", *arguments(source, *settings), "--per-row", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kept = 0
    for _ in range(5):
        process = Forked(*command, env=environment)
        wanted = kept + rng.randrange(1, 14)
        while process.poll() is None and _lines(source) < wanted:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
        kept = _lines(source)
        assert kept >= wanted
    done = forked.run(*command, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"continuing with {kept} replies" in done.stderr
    resumed = out.read_bytes()
    out.unlink()
    done = forked.run(*command, env=environment)
    assert "continuing" not in done.stderr
    assert out.read_bytes() == resumed
    negatives = [json.loads(line) for line in resumed.splitlines()]
    assert sum(not row["label"] for row in negatives) >= 115


def _lines(source: Path) -> int:
    return sum(path.read_bytes().count(b"\n") - 1 for path in source.parent.glob("*.journal"))


@pytest.mark.slow
@pytest.mark.skipif(not STUB.is_file(), reason="no stand-in for the Hub beside this repository")
def test_a_model_of_the_hub(source: Path, tmp_path: Path) -> None:
    shutil.copytree(QUICKSTART, tmp_path / "hub" / "models" / "someone" / "tiny")
    server = subprocess.Popen(
        [sys.executable, str(STUB), str(tmp_path / "hub")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with server:
        assert server.stdout
        endpoint = server.stdout.readline().strip().partition("=")[2]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        code = (
            "from ktodata.generate.tokens import Tokens; from ktodata.errors import ModelError\n"
            "one = Tokens('someone/tiny'); print(one.revision, one.pinned == one.revision)\n"
            "try: Tokens('someone/none')\n"
            "except ModelError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False, env=environment
        )
        server.terminate()
    assert done.returncode == 0, done.stderr
    (revision, pinned), error = (
        line.split(" ", 1) if n == 0 else line for n, line in enumerate(done.stdout.splitlines())
    )
    assert (len(revision), pinned) == (40, "True"), "the commit, and what is loaded"
    assert error.startswith("someone/none: no model can be loaded: ")
