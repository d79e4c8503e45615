"""Which run a person means, and the ledger to read it from, whether the cluster is up or not."""

from actors.runs.ledger import Ledger
from actors.runs.run import check_run_id
from configs.errors import NotFoundError
from configs.paths import home

LATEST = "latest"


def resolve(name: str) -> str:
    """A run's id from an id or `latest`, the newest run. Raises NotFoundError."""
    if name != LATEST:
        return check_run_id(name)
    newest = ledger().runs(limit=1)
    if not newest:
        raise NotFoundError("there is no run yet", hint="`tandem train` queues one")
    return newest[0].id


def ledger() -> Ledger:
    """The ledger, for reading. Raises NotFoundError before the first `tandem up`."""
    path = home().ledger
    if not path.exists():
        raise NotFoundError(f"no ledger in {home().root}", hint="nothing has run there yet: `tandem up`")
    return Ledger(path, read_only=True)
