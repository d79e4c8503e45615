"""The command line's one edge: errors become one line on stderr and an exit code, never a traceback.

Exit codes: 0 done, 1 it failed, 2 the command was wrong, 130 interrupted.
"""

import re
import sys
import traceback

import click

WRONG_COMMAND = ("ConfigError", "DataError")


def run(command: click.Command) -> None:
    """Run `command` with the process's arguments and exit."""
    from configs.errors import TandemError

    try:
        result = command.main(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}{_usage_hint(error)}", err=True)
        sys.exit(error.exit_code)
    except TandemError as error:
        text = f"{error.message}{f' -> {error.hint}' if error.hint else ''}"
        click.echo(f"error: {' '.join(text.split())}", err=True)
        sys.exit(2 if type(error).__name__ in WRONG_COMMAND else 1)
    except BrokenPipeError:  # `tandem runs list | head`
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        click.echo(f"error: unexpected {type(error).__name__}: {_first_line(error)}{_keep_traceback()}", err=True)
        sys.exit(1)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" -> `{context.command_path} --help`" if context else ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _keep_traceback() -> str:
    """Write the traceback to the state folder; the words that point to it."""
    from configs.errors import TandemError
    from configs.paths import home

    try:
        log = home().logs / "cli.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as handle:
            arguments = [re.sub(r"^(notify[\w.]*=).*", r"\1...", word, flags=re.DOTALL) for word in sys.argv]  # secrets
            handle.write(f"{' '.join(arguments)}\n{traceback.format_exc()}\n")
    except (OSError, TandemError):
        return ""
    return f" -> details in {log}"
