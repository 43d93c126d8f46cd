"""Imports go left only (DESIGN section 1), and one module alone joins the two packages."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each line is a layer; a module may import from its own layer's left neighbours and from any layer before.
LAYERS = {
    "ktodata": [
        ["errors", "redact", "stop"],
        ["encoded", "schema"],
        ["hub"],
        ["io"],
        ["engine"],
        ["cli_common"],
        ["expressions", "peek", "sources"],
        [
            "evenly",
            "keys",
            "waiting",
            "arrange",
            "order",
            "stretches",
            "sketch",
            "signed",
            "near",
            "clean",
            "sort_out",
            "discover",
            "transform",
            "parents",
            "unpair",
        ],
        ["split", "mix", "formats", "convert", "label", "chats", "leakage", "personal", "negatives", "generate"],
        ["balance", "check", "report", "review"],
        ["commands", "balance_command"],
        ["cli", "__main__"],
    ],
    "ktotrain": [
        ["errors", "redact"],
        ["files", "launch", "lock", "stop"],
        ["recipe_keys", "recipe_tables", "recipe_names", "recipe", "recipe_docs"],
        ["failures", "batch", "losses", "logps", "pairing", "mixing"],
        ["plan", "packing", "empty", "metrics"],
        [
            "attention_mask",
            "attention_pack",
            "last_layer",
            "attention_products",
            "attention_loop",
            "attention_varlen",
            "attention_flex",
            "attention",
            "attention_choice",
        ],
        ["rotary", "scorer", "upcast", "trial", "probe", "sharding"],
        [
            "token_cache",
            "data",
            "model",
            "model_code",
            "reference",
            "cache",
            "step",
            "lockstep",
            "precompute",
            "known",
            "checkpoint",
            "evaluate",
        ],
        ["samples", "plots", "card", "memory", "progress"],
        ["log", "update", "zero", "parallel", "prepare", "shares", "preview", "shortage", "outputs", "learn"],
        ["run_state", "zero_state", "sharded_state", "resume", "keep"],
        ["trainer"],
        ["cli", "__main__"],
    ],
}
BRIDGE = ("ktotrain.data", {"ktodata.schema", "ktodata.io", "ktodata.balance", "ktodata.errors"})


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, at any depth in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_left_only() -> None:
    checked = 0
    for package, layers in LAYERS.items():
        rank = {name: place for place, layer in enumerate(layers) for name in layer}
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT / package).with_suffix("").parts
            if parts == ("__init__",):
                continue
            top = parts[0]
            assert top in rank, f"{path.relative_to(ROOT)} has no place in LAYERS"
            for name in imports_of(path):
                pieces = name.split(".")
                if pieces[0] not in LAYERS:
                    continue
                if pieces[0] != package:
                    module = ".".join([package, *parts])
                    allowed = module == BRIDGE[0] and any(name == b or name.startswith(b + ".") for b in BRIDGE[1])
                    assert allowed or (module == BRIDGE[0] and name == "ktodata"), f"{module} imports {name}"
                elif len(pieces) > 1 and pieces[1] in rank and pieces[1] != top:
                    here, there = rank[top], rank[pieces[1]]
                    assert there <= here, f"{package}.{'.'.join(parts)} imports {name}, which is to its right"
            checked += 1
    assert checked >= 10, "the walk found no modules"
