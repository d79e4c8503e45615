"""An adapter's states and which may follow which. Pure data; the ledger stores it."""

from enum import StrEnum


class AdapterState(StrEnum):
    PUBLISHED = "PUBLISHED"  # on disk and valid when it was written
    LOADING = "LOADING"  # being loaded beside the live one
    VERIFYING = "VERIFYING"  # loaded; its answers are compared with the base's
    LIVE = "LIVE"  # an alias points to it
    RETIRED = "RETIRED"  # was live; still on disk
    REFUSED = "REFUSED"  # broken, foreign or without effect; the reason is in the row

    @property
    def is_attempt(self) -> bool:
        """Whether a gateway is at work on it. Without that gateway the state means nothing, so it is not kept."""
        return self in (AdapterState.LOADING, AdapterState.VERIFYING)


_S = AdapterState
_ENDS = {_S.PUBLISHED, _S.RETIRED, _S.LIVE, _S.REFUSED}
"""What an attempt may end in: success, refusal, or what was true before."""
ADAPTER_FOLLOWING: dict[AdapterState, frozenset[AdapterState]] = {
    _S.PUBLISHED: frozenset({_S.LOADING}),
    _S.LOADING: frozenset({_S.VERIFYING, *_ENDS}),
    _S.VERIFYING: frozenset(_ENDS),
    _S.LIVE: frozenset({_S.RETIRED}),
    _S.RETIRED: frozenset({_S.LOADING}),
    _S.REFUSED: frozenset({_S.LOADING}),
}
"""Which state may follow which; the ledger refuses every other change. A version without a row is PUBLISHED."""
