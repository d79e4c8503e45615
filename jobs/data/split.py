"""Which rows are trained and which are kept for evaluation, decided by each row's own content.

Knows dialogues only by their fingerprint. Training (`jobs.data.dataset`) and evaluation ask here, so that both agree.
"""

from collections.abc import Iterable

from jobs.data.layouts.dialogue import Dialogue


def hold_out(dialogues: Iterable[Dialogue], share: float) -> tuple[list[Dialogue], list[Dialogue]]:
    """(training, held out), each in its order; about `share` of the rows (0 to below 1) are held out.

    A row's side depends on its fingerprint and `share` alone: it stays there whatever is added to the data or removed,
    duplicates are on one side, and a larger share keeps what a smaller one held out.
    """
    training: list[Dialogue] = []
    held_out: list[Dialogue] = []
    for dialogue in dialogues:
        (held_out if is_held_out(dialogue.fingerprint, share) else training).append(dialogue)
    return training, held_out


def is_held_out(fingerprint: str, share: float) -> bool:
    """The first 64 bits of the fingerprint, as a fraction of 1, are below `share`."""
    return int(fingerprint[:16], 16) < share * 2**64
