"""`tandem slots`: who holds what, and quarantine. Listing works while the cluster is down."""

import click

from actors import cluster
from actors.cluster import Cluster
from actors.runs.ledger import Ledger
from cli import output
from configs import paths
from configs.errors import ConfigError, NotFoundError
from configs.paths import Home


@click.group()
def slots() -> None:
    """List slots; take one out of use, or give it back."""


@slots.command("list")
@output.json_option
def list_slots(as_json: bool) -> None:
    """List slots with their holders and quarantines; while Tandem is down those in quarantine.

    \b
    Example:
      tandem slots list --json
    """
    rows = _rows(paths.home())
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        ("SLOT", "ROLES", "GPU", "HOLDERS", "QUARANTINE", "FOR"),
        [
            (row["slot"], ", ".join(row["roles"]), row["gpu"], ", ".join(row["holders"]) or None)
            + (
                (row["quarantine"]["reason"], output.age(row["quarantine"]["since"]))
                if row["quarantine"]
                else (None, None)
            )
            for row in rows
        ],
        empty="no slots: Tandem is not running, and none is in quarantine",
    )


@slots.command()
@click.argument("slot", metavar="SLOT")
@click.option("--reason", default="taken out of use", show_default=True, help="Shown wherever the slot is shown.")
@output.json_option
def quarantine(slot: str, reason: str, as_json: bool) -> None:
    """Give SLOT to nobody until it is released. A run that holds it goes on; so does an engine.

    \b
    Example:
      tandem slots quarantine 0 --reason "the fan rattles"
    """
    if not reason.strip():
        raise ConfigError("the reason is empty", hint=f'tandem slots quarantine {slot} --reason "the fan rattles"')
    from cli.api import Api

    answer = Api().post(f"/api/slots/{_name(slot)}/quarantine", {"reason": reason})
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"slot {slot} is in quarantine: {answer['reason']}")


@slots.command()
@click.argument("slot", metavar="SLOT")
@output.json_option
def release(slot: str, as_json: bool) -> None:
    """Let SLOT be given again. Refused while its GPU is missing.

    \b
    Example:
      tandem slots release 0
    """
    from cli.api import Api

    answer = Api().post(f"/api/slots/{_name(slot)}/release")
    if as_json:
        output.print_json(answer)
        return
    click.echo(f"slot {slot} is out of quarantine")
    if answer["accepted"]:
        output.say(f"its GPU still says: {answer['accepted']}; that is accepted until it changes")


def _rows(home: Home) -> list[dict]:
    ledger = Ledger(home.ledger, read_only=True) if home.ledger.exists() else None
    quarantines = ledger.quarantines() if ledger else {}
    leases = ledger.leases() if ledger else []
    found: Cluster | None = cluster.find(home)
    rows = [
        {
            "slot": slot.name,
            "roles": slot.roles,
            "gpu": slot.gpu,
            "uuid": slot.uuid,
            "holders": [lease.holder for lease in leases if lease.slot == slot.name] if found.is_alive else [],
            "quarantine": quarantines.pop(slot.name, None),
        }
        for slot in (found.slots if found else ())
    ]
    unknown = {"roles": (), "gpu": None, "uuid": None, "holders": []}  # of a cluster that is down, or had other slots
    rows += [{"slot": name, **unknown, "quarantine": quarantine} for name, quarantine in quarantines.items()]
    return [row | {"quarantine": vars(row["quarantine"]) if row["quarantine"] else None} for row in rows]


def _name(slot: str) -> str:
    """`slot` if it can be a slot's name, so that no other route is ever asked."""
    if not slot.replace("_", "").isalnum():
        raise NotFoundError(f"no slot '{slot}'", hint="see `tandem slots list`")
    return slot
