"""Whether a `.pt2` archive is data alone.

torch writes Python from what it reads there: names of arguments and nodes become source text, expressions go to
sympy's parser, operators are looked up by dotted path. So only words may stand where it expects names, only
registered operators where it expects operators, only arithmetic where it expects expressions, and only raw tensors
beside them.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch._ops import OpOverload

PLAIN = re.compile(
    r"[^/]+/(data/weights/weight_\d+|data/constants/tensor_\d+|models/model\.json"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)
"""Entries that are read as raw tensors, numbers or JSON."""
EMPTY = re.compile(r"[^/]+/data/sample_inputs/model\.pt")
LARGEST = 1 << 28
"""Bytes of JSON that are looked at."""

WORD = re.compile(r"[\w.+:-]*")
EQUATION = re.compile(r"[A-Za-z.,>\- ]{0,200}")
"""`nd,edh->neh`, an argument of einsum: text that torch writes as a quoted literal, and nothing here ends one."""
FREE = frozenset({"metadata", "guards_code"})
"""What torch keeps beside the graph and never runs: stack traces, module names, guards (they are switched off)."""
TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})

OPERATOR = re.compile(r"torch\.ops\.(?!aten\.from_file)(\w+)\.(\w+)\.(\w+)")
SYMBOLIC = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|abs|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc)|torch\.(sym_(int|float|ite|max|min|not|sum)|_sym_sqrt)"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
SYMPY = frozenset(
    (
        "Symbol", "Integer", "Rational", "Add", "Mul", "FloorDiv", "CleanDiv", "CeilDiv", "Mod", "PythonMod",
        "ModularIndexing", "Max", "Min", "Pow", "ToFloat", "FloatTrueDiv", "IntTrueDiv", "TruncToInt", "FloorToInt",
        "CeilToInt", "Eq", "Ne", "Equality", "Unequality", "Ge", "Gt", "Le", "Lt", "GreaterThan",
        "StrictGreaterThan", "LessThan", "StrictLessThan",
    )
)  # fmt: skip
ARITHMETIC = re.compile(r"[\w\s+\-*/(),='<>]{0,2000}")
POWER = re.compile(r"Pow\(Symbol\('\w+'[^()]*\), Integer\(-?\d\)\)")


def unsafe(path: Path) -> str | None:
    """What in the archive is more than data, as a part of a sentence; None for an archive that may be loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            return next(_findings(archive), None)
    except (zipfile.BadZipFile, ValueError, KeyError, RecursionError, NotImplementedError, EOFError) as wrong:
        return f"no archive that can be read ({wrong})"


def _findings(archive: zipfile.ZipFile) -> Iterator[str]:
    for entry in archive.infolist():
        empty = EMPTY.fullmatch(entry.filename) and entry.file_size == 0
        if not empty and not PLAIN.fullmatch(entry.filename):
            yield f"{entry.filename!r}, which is no plain tensor or JSON and would be unpickled"
        if entry.compress_type != zipfile.ZIP_STORED:
            yield f"{entry.filename!r}, which is compressed"
        if not entry.filename.endswith(".json"):
            continue
        if entry.file_size > LARGEST:
            yield f"{entry.filename!r} of {entry.file_size} bytes"
        for found in _of_json(json.loads(archive.read(entry))):
            yield f"{found} (in {entry.filename!r})"


def _of_json(data: object, key: str = "") -> Iterator[str]:
    """Everything that is not data, `key` being the field that it stands in."""
    if isinstance(data, dict):
        for name, value in cast(dict[str, Any], data).items():
            if name == "use_pickle" and value:
                yield "an unpickled tensor"
            if not WORD.fullmatch(name):
                yield f"the name {name[:80]!r}"
            if name not in FREE:
                yield from _of_json(value, name)
    elif isinstance(data, list):
        for value in cast(list[Any], data):
            yield from _of_json(value, key)
    elif isinstance(data, str):
        yield from _of_text(data, key)


def _of_text(text: str, key: str) -> Iterator[str]:
    if key == "expr_str":
        if not _is_arithmetic(text):
            yield f"the expression {text[:80]!r}"
    elif key == "target":
        if not _is_operator(text):
            yield f"the operator {text[:80]!r}"
    elif key in ("in_spec", "out_spec"):
        yield from _of_tree(json.loads(text))
    elif not WORD.fullmatch(text) and not (key == "as_string" and EQUATION.fullmatch(text)):
        yield f"the name {text[:80]!r}"


def _of_tree(data: object) -> Iterator[str]:
    """A structure of arguments or results; its dictionaries' keys are JSON inside the JSON."""
    if isinstance(data, dict):
        held = cast(dict[str, Any], data)
        kind, context = held.get("type"), held.get("context")
        if kind is not None and kind not in TREES:
            yield f"the structure {str(kind)[:80]!r}"
        if isinstance(context, str):
            yield from _of_json(json.loads(context))
        yield from _of_tree(held.get("children_spec"))
    elif isinstance(data, list):
        for value in cast(list[Any], data):
            yield from _of_tree(value)
    elif isinstance(data, str):
        yield f"the structure {data[:80]!r}"


def _is_operator(target: str) -> bool:
    """Arithmetic on sizes, or an operator that is registered here; none that opens files."""
    found = OPERATOR.fullmatch(target)
    if found is None:
        return SYMBOLIC.fullmatch(target) is not None
    held: object = torch.ops
    for name in found.groups():
        held = getattr(held, name, None)
    return isinstance(held, OpOverload)


def _is_arithmetic(expression: str) -> bool:
    """Symbols, numbers and sympy's classes (`Mul(Integer(2), Symbol('s31'))`); powers are small ones of symbols."""
    calls = re.findall(r"(\w+)\s*\(", expression)
    plain = ARITHMETIC.fullmatch(expression) and "__" not in expression and "**" not in expression
    return bool(plain) and SYMPY.issuperset(calls) and calls.count("Pow") == len(POWER.findall(expression))
