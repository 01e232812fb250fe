"""Carries out a simple Dockerfile without a container engine: each stage in a folder of its own.

Absolute paths of the image become paths below that folder, its user becomes whoever runs the tests, and "python" is
the interpreter that runs them. It knows the instructions that docker/Dockerfile uses and refuses all others.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

IMAGE_UID = "10001"
TOP_FOLDERS = "opt|src|app|data"
RUN_TIMEOUT_S = 600


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, rest of its line) with comments dropped and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            found.append((word.upper(), rest.strip()))
    return found


def context_files(checkout: Path, dockerignore: str) -> list[Path]:
    """The files an engine would send as build context: what git knows, less what the ignore file drops.

    Knows the form used here: ``*`` first, then ``!name`` for what stays, then patterns to drop again.
    """
    patterns = [line for line in dockerignore.splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*"
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    dropped = [pattern for pattern in patterns[1:] if not pattern.startswith("!")]

    def stays(path: str) -> bool:
        parts = path.split("/")
        starts = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        for pattern in dropped:
            tested = parts if pattern.startswith("**/") else starts
            if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in tested):
                return False
        return parts[0] in kept

    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [Path(path) for path in listed if stays(path) and (checkout / path).is_file()]


class Image:
    """What a Dockerfile makes, below ``folder/image``."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.root = folder / "image"
        self.folder = folder
        self.checkout = checkout
        self.env: dict[str, str] = {}
        self.workdir = self.root
        self.user = "root"
        self.command: dict[str, list[str]] = {}
        self._stages: dict[str, Path] = {}
        self._stage = ""
        tools = folder / "tools"
        tools.mkdir()
        python = tools / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.base_prefix}/bin/python3" "$@"\n')
        python.chmod(0o755)
        self._path = f"{tools}:/usr/local/bin:/usr/bin:/bin"

    def local(self, text: str) -> str:
        """``text`` with the image's absolute paths and user replaced by those here."""
        text = text.replace(f"={IMAGE_UID}", f"={os.getuid()}")
        return re.sub(rf"(?<![\w.])/(?={TOP_FOLDERS})\b", f"{self.root}/", text)

    def environment(self) -> dict[str, str]:
        """The environment of a process in the image, and what reaches the package registry from here."""
        outside = {
            name: value
            for name, value in os.environ.items()
            if name.lower().endswith("_proxy") or name.startswith(("PIP_", "SSL_CERT", "REQUESTS_CA"))
        }
        return {**outside, "HOME": str(self.folder), "PATH": self._path, "LANG": "C.UTF-8", **self.env}

    def build(self, dockerfile: str, files: list[Path]) -> None:
        """Carry out every instruction."""
        for word, rest in instructions(dockerfile):
            getattr(self, f"_{word.lower()}")(rest, files)

    def _from(self, rest: str, files: list[Path]) -> None:
        if self.root.exists():
            kept = self.folder / f"stage-{len(self._stages)}"
            self.root.rename(kept)
            self._stages[self._stage] = kept
        self._stage = rest.split()[-1]
        self.root.mkdir()
        self.env, self.workdir, self.user, self.command = {}, self.root, "root", {}

    def _workdir(self, rest: str, files: list[Path]) -> None:
        self.workdir = Path(self.local(rest))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str, files: list[Path]) -> None:
        words = rest.split()
        if words[0].startswith("--from="):
            source, target = words[1:]
            shutil.copytree(
                self._stages[words[0].partition("=")[2]] / source.lstrip("/"), self.local(target), symlinks=True
            )
            return
        *sources, target = words
        place = Path(self.local(target)) if target.startswith("/") else self.workdir / target
        for source in sources:
            inside = [path for path in files if path == Path(source) or Path(source) in path.parents]
            assert inside, f"COPY {source}: nothing of that name in the build context"
            for path in inside:
                whole = path == Path(source)
                copy = (
                    (place / path.name if target.endswith("/") else place)
                    if whole
                    else place / path.relative_to(source)
                )
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.checkout / path, copy)

    def _run(self, rest: str, files: list[Path]) -> None:
        command = self.local(re.sub(r"^(--mount=\S+\s+)+", "", rest))
        done = subprocess.run(
            ["sh", "-e", "-c", command],
            cwd=self.workdir,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"RUN {rest}: {done.stdout}"

    def _env(self, rest: str, files: list[Path]) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.env[name] = self.local(value).replace("$PATH", self._path)

    def _user(self, rest: str, files: list[Path]) -> None:
        self.user = rest

    def _expose(self, rest: str, files: list[Path]) -> None:
        self.command["EXPOSE"] = [rest]

    def _healthcheck(self, rest: str, files: list[Path]) -> None:
        self.command["HEALTHCHECK"] = json.loads(rest.partition("CMD ")[2])

    def _entrypoint(self, rest: str, files: list[Path]) -> None:
        self.command["ENTRYPOINT"] = json.loads(rest)

    def _cmd(self, rest: str, files: list[Path]) -> None:
        self.command["CMD"] = json.loads(rest)
