"""The `tandem` command: a group whose subcommands are imported only when used, so that help is instant."""

import importlib
import os

import click

from cli.edge import run
from configs import environment

COMMANDS = {
    "up": ("cli.machine.cluster", "Start Ray, the control actor and the chat endpoint."),
    "down": ("cli.machine.cluster", "End every process that `up` started."),
    "status": ("cli.machine.status", "GPUs, slots, runs, adapters, requests and processes at a glance."),
    "top": ("cli.machine.top", "The same, live."),
    "train": ("cli.training.train", "Queue a fine-tuning run."),
    "data": ("cli.training.data", "Look at data before it is trained."),
    "runs": ("cli.training.runs", "List, show, compare, watch, follow, stop and resume runs."),
    "logs": ("cli.machine.logs", "Show what all processes logged, by run, actor or request."),
    "adapters": ("cli.serving.adapters", "List, show and export published adapters."),
    "evaluate": ("cli.training.evaluate", "Judge an adapter on rows that it was not trained on."),
    "swap": ("cli.serving.adapters", "Change the served adapter without dropping a request."),
    "model": ("cli.serving.model", "Check a base model's files, fetch what is missing."),
    "ask": ("cli.serving.ask", "Ask the running endpoint one question."),
    "chat": ("cli.chat.command", "Chat with the running endpoint in this terminal."),
    "debug": ("cli.serving.debug", "Look at what the model really reads and writes."),
    "ui": ("cli.serving.ui", "Chat in the browser; two adapters side by side."),
    "dashboard": ("cli.machine.dashboard", "Everything at a glance in the browser, live."),
    "benchmark": ("cli.serving.benchmark", "Measure latency and throughput of any OpenAI-compatible endpoint."),
    "metrics": ("cli.machine.metrics", "Serve Prometheus metrics on a port of their own."),
    "summary": ("cli.machine.summary", "What happened in a day: runs, work, energy, swaps."),
    "tensorboard": ("cli.training.tensorboard", "TensorBoard of all runs."),
    "slots": ("cli.machine.slots", "List slots; take one out of use, or give it back."),
    "notify": ("cli.machine.notify", "Try out who is told when something happens."),
    "env": ("cli.machine.cluster", "Print what Ray's own commands need to reach the cluster."),
    "demo": ("cli.machine.demo", "Train, serve and swap on the embedded model, start to end."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and help line; imports a command's module when it runs."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[name][0]), name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tandem", message="%(package)s %(version)s")
def tandem() -> None:
    """Two GPUs as one machine: fine-tune on one, chat on the other, swap adapters live.

    \b
    Examples:
      tandem up                          start everything on this machine
      tandem train --profile tiny -f     train, and follow until it ends
      tandem swap latest                 answer with what was just trained
      tandem ask "What is Tandem?"       ask the served adapter
      tandem down                        end everything

    All state is below TANDEM_HOME (default ~/.tandem). Every command takes --help.
    """


def main() -> None:
    environment.begin_anew_without_breaking()
    environment.tidy(os.environ)
    run(tandem)
