"""The command line's one edge: errors become one line on stderr and an exit code, never a traceback.

Exit codes: 0 done, 1 it failed, 2 the command was wrong, 130 interrupted.
"""

import errno
import re
import sys
import traceback

import click

from cli.printable import folded, printable

WRONG_COMMAND = ("ConfigError", "DataError")


def run(command: click.Command) -> None:
    """Run `command` with the process's arguments and exit."""
    from configs.errors import TandemError

    try:
        result = command.main(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort as abort:  # with words where the command says what became of its work
        click.echo(f"interrupted: {abort}" if str(abort) else "interrupted", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _complain(f"{_words(error)}{_usage_hint(error)}")
        sys.exit(error.exit_code)
    except TandemError as error:
        _complain(" ".join(error.sentence.split()))
        sys.exit(2 if type(error).__name__ in WRONG_COMMAND else 1)
    except BrokenPipeError:  # `tandem runs list | head`
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        _complain(_disk_words(error) or f"unexpected {type(error).__name__}: {_first_line(error)}{_keep_traceback()}")
        sys.exit(1)


def _complain(text: str) -> None:
    """On stderr, without what would speak to the terminal: an error may carry a server's own words."""
    click.echo(folded(printable(f"error: {text}")), err=True)


def _words(error: click.ClickException) -> str:
    """click's message; it calls a number within bounds by its type's name, and guesses only by letters."""
    if isinstance(error, (click.NoSuchOption, click.NoSuchCommand)) and error.ctx:
        return f"{error.message} {_guess(error)}".rstrip()
    return re.sub(r"is not a valid (integer|float) range", r"is not a valid \1", error.format_message())


def _guess(error: click.NoSuchOption | click.NoSuchCommand) -> str:
    from cli import mistyped

    if isinstance(error, click.NoSuchOption):
        words = mistyped.option(error.option_name, error.ctx)
    else:
        words = mistyped.command(error.command_name, error.ctx)
    return words[:1].upper() + words[1:]


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" -> `{context.command_path} --help`" if context else ""


def _disk_words(error: Exception) -> str:
    """What a disk that is full or cannot be written refused, and the next step; empty for another error."""
    if not isinstance(error, OSError):  # safetensors' and torch's own carry the system's words and no number
        return "No space left on device -> free some space" if "No space left on device" in str(error) else ""
    remedies = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EROFS: "its disk is mounted read-only: name another place, or point TANDEM_HOME at one",
        errno.EACCES: "it is not yours to read or write: look at its owner and permissions",
        errno.EPERM: "it is not yours to read or write: look at its owner and permissions",
    }
    if error.errno not in remedies:
        return ""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror} -> {remedies[error.errno]}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _keep_traceback() -> str:
    """Write the traceback to the state folder; the words that point to it."""
    from configs import durable
    from configs.errors import TandemError
    from configs.paths import home

    try:
        log = home().logs / "cli.log"
        durable.private_folder(log.parent)
        with open(log, "a", opener=durable.private) as handle:
            arguments = [re.sub(r"^(notify[\w.]*=).*", r"\1...", word, flags=re.DOTALL) for word in sys.argv]  # secrets
            handle.write(f"{' '.join(arguments)}\n{traceback.format_exc()}\n")
    except (OSError, TandemError):
        return ""
    return f" -> details in {log}"
