"""``taskstream openapi``: the OpenAPI document of event apps or tasks, as a file and compared with one."""

from __future__ import annotations

from pathlib import Path

import click

from taskstream.cli.target import need_target, target_options
from taskstream.whole_file import write_whole

DONE, FAILED = 0, 1
output_option = click.option(
    "--output-file",
    default="openapi.json",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The document's file.",
)


@click.group()
def openapi() -> None:
    """The OpenAPI document: make it, compare it."""


@openapi.command()
@target_options
@output_option
def create(app: str | None, config_files: str | None, output_file: Path) -> int:
    """Write the OpenAPI 3 document of an app's tasks, or of the configured events."""
    from taskstream.cli.apidoc import document_for, dump

    document = document_for(need_target(app, config_files))
    write_whole(output_file.resolve(), dump(document))
    _print_info(document)
    click.echo(f"Written to {output_file}")
    return DONE


@openapi.command()
@target_options
@output_option
def diff(app: str | None, config_files: str | None, output_file: Path) -> int:
    """List what differs between the document's file and the code. Exit status 1 if anything does."""
    from taskstream.cli.apidoc import differences, document_for, read

    target = need_target(app, config_files)
    on_file = read(output_file)
    document = document_for(target)
    _print_info(document)
    found = differences(on_file, document)
    for line in found:
        click.echo(line)
    if not found:
        click.echo(f"{output_file} and the code agree")
    return FAILED if found else DONE


def _print_info(document: dict[str, object]) -> None:
    info = document["info"]
    assert isinstance(info, dict)
    for name in ("version", "title", "description"):
        if name in info:
            click.echo(f"API {name.capitalize()}: {info[name]}")
