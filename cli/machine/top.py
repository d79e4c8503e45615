"""`tandem top`: the board of `tandem status`, live."""

import click

from actors.status import overview
from actors.status.rates import Rates
from cli import output
from cli.machine.status import console
from cli.screens import live
from cli.screens.board import NARROWEST, Board
from configs.paths import home


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
def top(interval: float) -> None:
    """Watch GPUs, slots, runs, requests and processes live; q or Ctrl-C ends. Goes on while Tandem is down.

    In a pipe it prints once, as `tandem status` does.

    \b
    Example:
      tandem top --interval 2
    """
    if not live.is_screen():
        console().print(Board(overview.read(home())))
        output.say("not a terminal: printed once")
        return
    screen = _Screen()
    live.run(screen.look, screen.draw, interval)


class _Screen:
    """The newest look and the rates up to it."""

    def __init__(self) -> None:
        self.rates, self.rate, self.seen = Rates(), None, None

    def look(self) -> bool:
        self.seen = overview.read(home())
        self.rate = self.rates.see(self.seen)
        return False

    def draw(self, columns: int, lines: int):
        if columns < NARROWEST:
            return f"{columns} columns are too few: widen the terminal to {NARROWEST}, or q and `tandem status`"
        return Board(self.seen, self.rate, height=lines)
