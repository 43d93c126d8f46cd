"""The code that a model's scores come from: weights say nothing of it, and it changes.

A model's classes live in transformers, in files that came with the model (remote code), in peft, in a package of the
user's own. An edited file or another version of a library computes something else from the same weights.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Collection
from pathlib import Path
from types import CodeType
from typing import Any

# Versions tell what these libraries compute outside of the classes' own files.
LIBRARIES = frozenset({"transformers", "peft"})
# torch's own layers and numbers are taken for granted, and what we compute has the cache's format as its version.
LEFT_OUT = frozenset({"torch", "ktotrain"}) | sys.stdlib_module_names


def code_of(model: Any, *, without: Collection[str] = ()) -> str:
    """A name for the code that a model runs: 32 hexadecimal digits, equal in all processes and wherever it lies.

    They are over the source files of all classes of its modules, base classes too, over what those files import from
    beside them, and over the versions of the libraries. A class without a source file counts by its bytecode.

    Args:
        model: any module; nothing of it is run.
        without: packages that have no part in the scores, by name.
    """
    counted = [
        kind
        for kind in {kind for module in model.modules() for kind in type(module).__mro__}
        if _package(kind) not in LEFT_OUT.union(without)
    ]
    files: dict[Path, bytes] = {}
    parts: set[bytes] = set()
    for kind in counted:
        package = _package(kind)
        parts.add(f"{package} {getattr(sys.modules.get(package), '__version__', '')}".encode())
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if file is None or not _read(Path(file), files, package if package not in LIBRARIES else ""):
            parts.add(_bytecode(kind))
    parts |= set(files.values())
    # Which of the classes in the files it is; sharding puts one of torch's before it.
    own = next((kind.__qualname__ for kind in type(model).__mro__ if kind in counted), "")
    whole = hashlib.sha256(own.encode())
    for part in sorted(hashlib.blake2b(part).digest() for part in parts):
        whole.update(part)
    return whole.hexdigest()[:32]


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _read(path: Path, files: dict[Path, bytes], package: str) -> bool:
    """Put a file into `files` and, if a package is named, what of that it imports; False if it cannot be read."""
    if path in files:
        return True
    try:
        files[path] = path.read_bytes()
    except OSError:  # it is within a zip archive, say
        return False
    for beside in _imported(path, files[path], package) if package else ():
        _read(beside, files, package)
    return True


def _imported(path: Path, source: bytes, package: str) -> set[Path]:
    """The files of its own package that one imports from, by whatever form of import."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a compiled one
        return set()
    found: set[Path] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [folder / alias.name for alias in node.names]
            found |= {
                file for one in (folder, *names) for file in (one.with_name(f"{one.name}.py"), one / "__init__.py")
            }
        elif isinstance(node, ast.Import | ast.ImportFrom):
            absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in absolute:
                file = getattr(sys.modules.get(name), "__file__", None)
                if file and name.partition(".")[0] == package:
                    found.add(Path(file))
    return {file for file in found if file.is_file()}


def _bytecode(kind: type) -> bytes:
    """A class by its name and what its own functions do."""
    digest = hashlib.blake2b(kind.__qualname__.encode())

    def take(code: CodeType) -> None:
        digest.update(code.co_code)
        digest.update(repr(code.co_names).encode())
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                take(constant)
            elif not isinstance(constant, frozenset):  # in another order in every process
                digest.update(repr(constant).encode())

    for name, value in sorted(vars(kind).items()):
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        if isinstance(code, CodeType):
            digest.update(name.encode())
            take(code)
    return digest.digest()
