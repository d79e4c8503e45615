"""Where state lives: everything under TANDEM_HOME (default ~/.tandem). Creates nothing; writers make what they need."""

import os
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError

SOURCE = Path(__file__).resolve().parent.parent
"""The root of this checkout: what `ray job submit --working-dir` uploads."""

PROFILES = SOURCE / "configs" / "profiles"
CLUSTER_CONFIG = SOURCE / "configs" / "cluster.yaml"
MONITORING = SOURCE / "configs" / "monitoring"
SERVE_CONFIG = SOURCE / "configs" / "serve.yaml"
TINY_MODEL = SOURCE / "models" / "tiny" / "weights"
TINY_DATASET = SOURCE / "models" / "tiny" / "demo.jsonl"

LONGEST_HOME = 35
"""Bytes. Ray's longest socket is HOME/ray/session_<date>_<time>_<microseconds>_<pid>/sockets/dash_MetricsHead, and
Linux allows 107 for its path."""


@dataclass(frozen=True)
class Home:
    """All of Tandem's state on disk; one instance per root folder."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.db"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        """Published adapters, one folder per version, and `latest`."""
        return self.root / "models"

    @property
    def evaluations(self) -> Path:
        """What `tandem evaluate` found: <version>/<time>/report.json and report.html."""
        return self.root / "evaluations"

    @property
    def conversations(self) -> Path:
        """Saved chats, one JSON file each, of terminal and browser alike."""
        return self.root / "conversations"

    @property
    def responses(self) -> Path:
        """Responses and conversations of clients, if they are kept on disk."""
        return self.root / "responses.db"

    @property
    def chat_history(self) -> Path:
        """What was typed into `tandem chat`, for the arrow keys."""
        return self.root / "chat_history"

    @property
    def preferences(self) -> Path:
        """Votes between two answers, in JSONL."""
        return self.root / "preferences"

    @property
    def bases(self) -> Path:
        """Base models that Tandem itself makes, such as the embedded model in the 4-bit layout."""
        return self.root / "bases"

    @property
    def cluster(self) -> Path:
        """What `tandem up` started: a JSON file that exists while it should be running."""
        return self.root / "cluster.json"

    @property
    def token(self) -> Path:
        return self.root / "ray_token"

    @property
    def ray(self) -> Path:
        return self.root / "ray"

    @property
    def front(self) -> Path:
        """What HAProxy is started with. The name is short because its socket's path may have 97 bytes."""
        return self.root / "p"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        """Compiled kernels and other things that may be deleted at any time."""
        return self.root / "cache"

    @property
    def event_files(self) -> Path:
        """What `tandem tensorboard` shows, one folder per run, made from the runs' `metrics.jsonl`."""
        return self.cache / "tensorboard"

    def run(self, run_id: str) -> Path:
        return self.runs / run_id


def home() -> Home:
    """The state folder named by TANDEM_HOME, or ~/.tandem.

    Raises ConfigError if the path is too long for Ray's Unix sockets, or names a user who does not exist.
    """
    wanted = os.environ.get("TANDEM_HOME") or "~/.tandem"
    try:
        root = Path(wanted).expanduser().absolute()
    except RuntimeError:
        if wanted == "~/.tandem":
            raise ConfigError(
                f"user {os.getuid()} has no home folder in which ~/.tandem could be",
                hint="set TANDEM_HOME to a folder that may be written",
            ) from None
        raise ConfigError(f"TANDEM_HOME is {wanted}: there is no such user", hint="write the whole path") from None
    if len(os.fsencode(root)) > LONGEST_HOME:
        raise ConfigError(
            f"TANDEM_HOME is {len(os.fsencode(root))} bytes long ({root}); Unix sockets below it allow {LONGEST_HOME}",
            hint="point TANDEM_HOME at a shorter path",
        )
    return Home(root)
