"""The state folder made fit for a cluster: what its path is made of, room on its disk, modes, Ray's secret.

Called by `tandem up`, before it starts anything.
"""

import errno
import re
import secrets
import shutil
import sys

from configs import durable
from configs.errors import ClusterError, ConfigError
from configs.paths import Home

UNUSABLE = re.compile(r"[^ -~]|\$")
"""Ray 2.60 encodes its sockets' paths as ASCII; HAProxy 2.8 expands `$` in them, in quotes too."""
LEAST_FREE = 100 * 2**20
"""Bytes. Logs of Ray and ours, and the ledger's, until a person notices."""
KEPT_SESSIONS = 2


def check(home: Home) -> None:
    """Make the folder and see that a cluster can live in it. Raises ConfigError or ClusterError."""
    if " " in sys.prefix:  # Ray 2.60 starts its client server by an unquoted `bash -c`
        raise ConfigError(
            f"this environment is {sys.prefix!a}, and Ray cannot start its programs from a path with a space in it",
            hint="move the checkout to a path without spaces, then run ./setup.sh there",
        )
    if bad := UNUSABLE.search(str(home.root)):
        raise ConfigError(
            f"TANDEM_HOME is {str(home.root)!a}, and Ray cannot work in a folder with {bad[0]!a} in its path",
            hint="point TANDEM_HOME at a folder whose path is plain ASCII",
        )
    try:
        durable.private_folder(home.root)
        home.root.chmod(durable.FOLDER_MODE)
        durable.write_text(home.root / "trial", "")
        (home.root / "trial").unlink()
    except OSError as error:
        raise ClusterError(f"{home.root} cannot be written: {error.strerror}", hint=remedy(error)) from None
    if (free := shutil.disk_usage(home.root).free) < LEAST_FREE:
        raise ClusterError(
            f"the disk of {home.root} has {free / 2**20:.0f} MiB free, and a cluster needs {LEAST_FREE / 2**20:.0f}",
            hint=remedy(OSError(errno.ENOSPC, "")),
        )


def remedy(error: OSError) -> str:
    """What to do about a home that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or point TANDEM_HOME at a folder on another disk"
    return "point TANDEM_HOME at a folder of your own that may be written"


def prepare(home: Home) -> None:
    """Its folders and Ray's secret, and no more than the newest of Ray's old sessions."""
    for folder in (home.ray, home.logs, home.runs, home.models, home.cache, home.root / "tmp"):
        durable.private_folder(folder)
    if not home.token.exists():
        with open(home.token, "x", opener=durable.private) as handle:
            handle.write(secrets.token_hex(32))
    home.token.chmod(durable.FILE_MODE)
    sessions = sorted(path for path in home.ray.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for old in sessions[: -(KEPT_SESSIONS - 1)]:
        shutil.rmtree(old, ignore_errors=True)
