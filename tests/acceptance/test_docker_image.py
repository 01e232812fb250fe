"""What docker/Dockerfile and docker/compose.yaml run, carried out here without a container engine."""

from __future__ import annotations

import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from dockerfile import Image, context_files
from helpers import ROOT, Started, eventually, free_port
from ruamel.yaml import YAML

TOKEN = "a-token-of-the-test"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, built in an empty folder from the files of the build context."""
    ignore = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    built = Image(tmp_path_factory.mktemp("image"), ROOT)
    built.build((ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"), context_files(ROOT, ignore))
    return built


class Container:
    """Starts programs as a container of ``image`` would, on a port of our own."""

    def __init__(self, image: Image, start_process: Callable[..., Started], broker_url: str) -> None:
        self.image = image
        self.port = free_port()
        self._start = start_process
        self.env = {**image.environment(), "TASKSTREAM_BROKER": broker_url, "TASKSTREAM_AUTH_TOKEN": TOKEN}

    def words(self, words: list[str]) -> list[str]:
        """The command with its program looked up in the image's PATH, and its port replaced by ours."""
        program = shutil.which(words[0], path=self.env["PATH"])
        assert program is not None, f"{words[0]} is not in the image"
        return [program, *(word.replace("8020", str(self.port)) for word in words[1:])]

    def start(self, command: list[str]) -> Started:
        """Start ``command`` behind the image's entry point."""
        words = self.words([*self.image.command["ENTRYPOINT"], *command])
        started = self._start(["/usr/bin/env", "-i", *words_of(self.env), *words], cwd=self.image.workdir)
        return started

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run ``words`` to their end, as a health check does."""
        return subprocess.run(
            self.words(words),
            cwd=self.image.workdir,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def status(self, path: str, body: bytes | None = None, token: str | None = TOKEN) -> int:
        """HTTP status of a GET, or of a POST of ``body``."""
        headers = {"Content-Type": "application/json"} if body else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found: int = answer.status
                return found
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


def words_of(env: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]


@pytest.fixture
def container(image: Image, start_process: Callable[..., Started], broker_url: str) -> Container:
    return Container(image, start_process, broker_url)


def test_the_image_holds_the_whole_package_and_nothing_of_the_checkout(image: Image) -> None:
    (package,) = image.root.glob("opt/taskstream/lib/python*/site-packages/taskstream")
    site = package.parent
    shipped = {path.name for path in (ROOT / "taskstream" / "scripts").glob("*.lua")}
    assert shipped and {path.name for path in (package / "scripts").glob("*.lua")} == shipped
    for folder in ("templates", "static"):
        assert {path.name for path in (site / "taskstream_webapp" / folder).rglob("*")} == {
            path.name for path in (ROOT / "webapp" / folder).rglob("*")
        }
    assert not (image.root / "src").exists()
    code = "import taskstream, taskstream_worker, taskstream_webapp; print(taskstream.__file__)"
    done = subprocess.run(
        [str(image.root / "opt/taskstream/bin/python"), "-c", code],
        cwd=image.workdir,
        env=image.environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(image.root)


def test_the_web_container_becomes_healthy_and_stops_cleanly(image: Image, container: Container) -> None:
    # Given the image's own command and health check
    health = image.command["HEALTHCHECK"]
    assert container.run(health).returncode != 0
    # When it is started
    web = container.start(image.command["CMD"])
    # Then it becomes healthy, reaches the broker and asks for the token
    eventually(lambda: container.run(health).returncode == 0, timeout=30, message=lambda: f"healthy; {web.output}")
    assert container.status("/readyz") == 200
    assert container.status("/") == 200
    assert container.status("/", token=None) == 401
    web.send(signal.SIGTERM)
    assert web.wait(30) == 0, web.output


def test_both_containers_take_a_parcel_from_post_to_label(image: Image, container: Container) -> None:
    # Given the worker of the compose file and its health check
    service = YAML(typ="safe").load(ROOT / "docker" / "compose.yaml")["services"]["worker"]
    kind, line = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    health = ["sh", "-c", line.replace("$$", "$")]
    assert container.run(health).returncode == 1
    # When worker and web server are started
    worker = container.start(service["command"])
    web = container.start(image.command["CMD"])
    # Then the worker answers its health check
    eventually(lambda: container.run(health).returncode == 0, 30, lambda: f"worker is healthy; {worker.output}")
    eventually(lambda: container.status("/readyz") == 200, 30, lambda: f"web is ready; {web.output}")
    # And what is posted ends as a file and an outcome in the folder the volume is mounted on
    parcel = b'{"parcel": "PX-1042", "postcode": "22305", "weight_kg": 2.4}'
    assert container.status("/api/parcels/1x0/scan-parcel", parcel) == 202, web.output
    label = image.root / "data" / "labels" / "PX-1042.json"
    eventually(label.exists, 20, lambda: f"the label is there; {worker.output}")
    assert (image.root / "data" / "results").is_dir()
    # And a stop is clean
    worker.send(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.output
    assert worker.family() == []
