"""Checks a source tree against the rules of docs/architecture.md, by reading it, never by importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDERS = {"taskstream": "taskstream", "taskstream_worker": "worker", "taskstream_webapp": "webapp"}
"""Import name → folder of the checkout."""

BANNED = {
    "taskstream": {"flask", "gevent", "werkzeug"},
    "taskstream_worker": {"flask", "taskstream_webapp"},
    "taskstream_webapp": {"taskstream_worker"},
}
LAZY_ONLY = {"taskstream_worker", "taskstream_webapp"}
"""What taskstream may import inside a function of its command line, and nowhere else."""

FACE_FLOOR = 4
"""Floor of taskstream/__init__.py, which only re-exports what authors import."""

_STREAM_COMMAND = (
    "(XACK|XACKDEL|XADD|XAUTOCLAIM|XCLAIM|XDEL|XDELEX|XGROUP|XINFO|XLEN|XPENDING|XRANGE|XREAD|XREADGROUP|XREVRANGE"
    "|XSETID|XTRIM)"
)
STREAM_METHOD = re.compile(_STREAM_COMMAND + "(_[a-z_]+)?", re.IGNORECASE)
STREAM_WORDS = re.compile(_STREAM_COMMAND + "( [A-Z]+)?", re.IGNORECASE)
MAX_LINES = 420


@dataclass
class Import:
    """One imported module (or package) and how it is imported."""

    target: str
    line: int
    lazy: bool
    type_only: bool


@dataclass
class Source:
    """A parsed module: its dotted name, where it is, and what it imports."""

    name: str
    path: Path
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)


def floors_of(architecture: str) -> dict[str, int]:
    """Module or package (dotted) → floor, from the table under "The floors" of docs/architecture.md."""
    folders = {folder: name for name, folder in FOLDERS.items()}
    found = {"taskstream": FACE_FLOOR}
    for floor, cell in re.findall(r"^\| (\d) \| (.*?) \|", architecture, re.MULTILINE):
        for quoted in re.findall(r"`([^`]*)`", cell):
            for word in quoted.split():
                parts = word.removesuffix("/").removesuffix(".py").removesuffix("/*.lua").split("/")
                if parts[0] == "":
                    continue
                if parts[0] in folders and (len(parts) > 1 or word.endswith("/")):
                    parts[0] = folders[parts[0]]
                elif not parts[0].startswith("taskstream"):
                    parts.insert(0, "taskstream")
                found[".".join(parts)] = int(floor)
    return found


def violations(root: Path, floors: Mapping[str, int]) -> list[str]:
    """Every broken rule below ``root``, one line each."""
    sources = {source.name: source for source in _sources(root)}
    for source in sources.values():
        source.imports = list(_imports(source, sources))
    found: list[str] = []
    for source in sources.values():
        where = source.path.relative_to(root)
        found += (f"{where}:{line}: {text}" for line, text in _import_problems(source, sources, floors))
        found += (f"{where}:{line}: {text}" for line, text in _literal_problems(source))
    found += _circles(sources)
    found += _file_problems(root)
    return sorted(found)


def _files(root: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob(pattern)):
            yield package, path


def _sources(root: Path) -> Iterator[Source]:
    for package, path in _files(root, "*.py"):
        parts = path.relative_to(root / FOLDERS[package]).with_suffix("").parts
        name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        yield Source(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))


def _imports(source: Source, sources: Mapping[str, Source]) -> Iterator[Import]:
    """Imports anywhere in the file, ``importlib.import_module("…")`` and ``__import__("…")`` among them."""

    def visit(node: ast.AST, lazy: bool, type_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner_lazy = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            inner_type = type_only or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            targets: list[str] = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = _base(source, child)
                for alias in child.names:
                    inner = f"{base}.{alias.name}"
                    targets.append(inner if inner in sources else base)
            elif isinstance(child, ast.Call) and child.args and isinstance(child.args[0], ast.Constant):
                called = ast.unparse(child.func)
                if called in ("importlib.import_module", "import_module", "__import__"):
                    targets = [str(child.args[0].value)]
            for target in dict.fromkeys(targets):
                yield Import(target, child.lineno, inner_lazy, inner_type)  # type: ignore[attr-defined]
            yield from visit(child, inner_lazy, inner_type)

    return visit(source.tree, False, False)


def _base(source: Source, node: ast.ImportFrom) -> str:
    """The absolute name of what ``from X import …`` names."""
    if not node.level:
        return node.module or ""
    package = source.name.split(".")
    if source.path.name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _floor(name: str, floors: Mapping[str, int]) -> int | None:
    """The floor of the module, else of the nearest package above it that is not ``taskstream`` itself."""
    parts = name.split(".")
    while parts:
        known = ".".join(parts)
        if known in floors and (known != "taskstream" or name == "taskstream"):
            return floors[known]
        parts.pop()
    return None


def _import_problems(
    source: Source, sources: Mapping[str, Source], floors: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    package = source.name.partition(".")[0]
    own = _floor(source.name, floors)
    if own is None:
        yield 1, f"{source.name} has no floor in docs/architecture.md"
        return
    for found in source.imports:
        top = found.target.partition(".")[0]
        if top in BANNED[package]:
            yield found.line, f"{package} may not import {top}"
        if package == "taskstream" and top in LAZY_ONLY:
            if not source.name.startswith(("taskstream.cli.", "taskstream.testing.")) or not found.lazy:
                yield found.line, f"{top} is loaded only inside a function of taskstream/cli/ or testing/"
        elif found.target in sources:
            target = _floor(found.target, floors)
            if target is not None and target > own:
                yield found.line, f"{source.name} (floor {own}) imports {found.target} (floor {target}): only down"


def _literal_problems(source: Source) -> Iterator[tuple[int, str]]:
    in_keys = source.name == "taskstream.keys"
    in_broker = source.name.startswith("taskstream.broker")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and not in_broker and STREAM_METHOD.fullmatch(node.attr):
            yield node.lineno, f"only taskstream/broker/ sends stream commands: {node.attr}"
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str | bytes):
            continue
        text = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
        if text.startswith("ts:") and not in_keys:
            yield node.lineno, f"only taskstream/keys.py spells out keys: {text!r}"
        if not in_broker and STREAM_WORDS.fullmatch(text.strip()):
            yield node.lineno, f"only taskstream/broker/ sends stream commands: {text!r}"


def _circles(sources: Mapping[str, Source]) -> Iterator[str]:
    """Files that import each other in a circle; what only a type checker sees closes none."""
    graph = {
        name: [found.target for found in source.imports if not found.type_only and found.target in sources]
        for name, source in sources.items()
    }
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> Iterator[str]:
        if name in trail:
            yield "circle: " + " → ".join([*trail[trail.index(name) :], name])
            return
        if name in done:
            return
        for target in graph[name]:
            yield from walk(target, [*trail, name])
        done.add(name)

    for name in graph:
        yield from walk(name, [])


def _file_problems(root: Path) -> Iterator[str]:
    for pattern in ("*.py", "*.lua"):
        for _, path in _files(root, pattern):
            text = path.read_text(encoding="utf-8")
            lines = text.count("\n")
            if lines > MAX_LINES:
                yield f"{path.relative_to(root)}: {lines} lines: split it, one role each (at most {MAX_LINES})"
            if pattern == "*.lua" and re.search(r"""["']ts:""", text):
                yield f"{path.relative_to(root)}: a script gets its keys from taskstream/keys.py, through KEYS"
