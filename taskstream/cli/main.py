"""The command ``taskstream``: finds the subcommand, loads its module, and turns every failure into one line.

Exit status: 0 done, 1 failed, 2 bad usage or configuration. It never shows a traceback, unless
TASKSTREAM_LOG_LEVEL is DEBUG and the failure is a defect of Taskstream itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from taskstream._version import __version__
from taskstream.errors import ConfigError, TaskstreamError

DONE, FAILED, USAGE = 0, 1, 2


class Entry(NamedTuple):
    """Where a command is and what the overview says of it, so that ``--help`` loads none of them."""

    section: str
    where: str
    help: str


COMMANDS = {
    "dev": Entry("Run", "taskstream.cli.dev:dev", "Everything in one, with reload: broker, web server, worker pool."),
    "run": Entry("Run", "taskstream.cli.dev:run", "Web server and worker pool for one box."),
    "worker": Entry("Run", "taskstream.cli.worker:worker", "A worker pool."),
    "web": Entry("Run", "taskstream.cli.web:web", "The web server."),
    "call": Entry("Call", "taskstream.cli.call:call", "Send a call of a task, and wait for its result."),
    "queues": Entry("Look", "taskstream.cli.inspect:queues", "Streams, queues and their groups: what waits where."),
    "workers": Entry("Look", "taskstream.cli.inspect:workers", "The live worker processes."),
    "result": Entry("Look", "taskstream.cli.inspect:result", "What became of a message."),
    "doctor": Entry("Look", "taskstream.cli.doctor:doctor", "Look broker and results over for what will hurt."),
    "dead": Entry("Steer", "taskstream.cli.dead:dead", "Dead letters: look at them, requeue or purge them."),
    "replay": Entry("Steer", "taskstream.cli.replay:replay", "Run again what was done, as far back as it is kept."),
    "control": Entry("Steer", "taskstream.cli.control:control", "Stop and start consumption, ask workers."),
    "outbox": Entry("Steer", "taskstream.cli.outbox:outbox", "Messages that wait here for Redis: list and send them."),
    "openapi": Entry("Document", "taskstream.cli.openapi:openapi", "The OpenAPI document: make it, compare it."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; its help is grouped by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for an unknown name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, saying where an option belongs that stands before the command, as celery's -A does."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            command = next((one for one in given if one in COMMANDS), None)
            if command is None:
                raise
            option = error.option_name
            raise click.UsageError(
                f"{option!r} stands before the command: put it behind, as in taskstream {command} {option} …", ctx
            ) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, naming the nearest command where there is no such one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(f"no command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One table per section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            sections.setdefault(entry.section, []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows, col_max=12)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed, 2 bad usage or configuration. Reference: docs/cli.md.",
)
@click.version_option(__version__, prog_name="taskstream", message="%(prog)s %(version)s")
def cli() -> None:
    """Tasks and event apps on Redis streams."""
    from taskstream.cli.log_options import check_log_variables

    check_log_variables()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's) and return the exit status."""
    arguments = None if argv is None else list(argv)
    return guarded(lambda: cli.main(args=arguments, prog_name="taskstream", standalone_mode=False))


def guarded(command: Callable[[], object]) -> int:
    """Call ``command`` and return an exit status: its own if it returns one, else by what it raised."""
    try:
        status = command()
        sys.stdout.flush()
        return status if isinstance(status, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return _say(f"{error.format_message().rstrip('.')}{where}", USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except ConfigError as error:
        return _say(str(error), USAGE)
    except TaskstreamError as error:
        return _say(str(error), FAILED)
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}", FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", FAILED)
    except Exception as error:
        if os.environ.get("TASKSTREAM_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        detail = f"{type(error).__name__}: {error}"
        return _say(f"internal error: {detail} (TASKSTREAM_LOG_LEVEL=DEBUG shows where)", FAILED)


def _say(text: str, status: int) -> int:
    """One line on stderr, whatever ``text`` holds."""
    with contextlib.suppress(OSError):  # no place even for this line: the status says it
        click.echo("taskstream: " + " ".join(text.split()), err=True)
    return status
