"""One request as the clock saw it. Times are `time.perf_counter()` in seconds, durations are seconds.

Formulas are those of vLLM's `bench serve` and NVIDIA's aiperf; docs/benchmark.md says how the two name them. Knows
neither HTTP nor statistics.
"""

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class Failure:
    """Why a request has no whole answer."""

    kind: str
    """`connection`, `broken_off`, `timeout`, `http_<status>`, `error_event`, `empty` or `not_a_completion`."""
    message: str

    @property
    def status(self) -> int | None:
        """The answer's HTTP status, if it was one that says an error."""
        return int(self.kind.removeprefix("http_")) if self.kind.startswith("http_") else None


@dataclass
class Timing:
    """A request from its first byte out to its last text in."""

    started: float
    arrivals: list[float] = field(default_factory=list)
    """When each chunk with text (answer, reasoning or a tool call) arrived."""
    ended: float = 0.0
    """When there was nothing more to read."""
    streamed: bool = True
    """False for an answer that came in one piece; `arrivals` then has that one moment."""
    prompt_tokens: int | None = None
    """Counted by the server."""
    completion_tokens: int | None = None
    """Counted by the server, reasoning and special tokens included."""
    finish_reason: str | None = None
    fingerprint: str | None = None
    failure: Failure | None = None

    @property
    def tokens(self) -> int:
        """Generated tokens: the server's count, else the chunks that had text."""
        return len(self.arrivals) if self.completion_tokens is None else self.completion_tokens

    @property
    def finished(self) -> float:
        """When it was over: at its last text, or when it had failed."""
        return self.arrivals[-1] if self.arrivals and not self.failure else self.ended

    @property
    def ttft(self) -> float | None:
        """Time to first token: first text less start. None for an answer in one piece."""
        return self.arrivals[0] - self.started if self.streamed and self.arrivals else None

    @property
    def e2e(self) -> float | None:
        """End-to-end latency: last text less start."""
        return self.arrivals[-1] - self.started if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies: from each chunk with text to the next; 0 between chunks that arrived together."""
        return [after - before for before, after in pairwise(self.arrivals)]

    @property
    def itl(self) -> float | None:
        """The mean gap; None with fewer than two chunks."""
        gaps = len(self.arrivals) - 1
        return (self.arrivals[-1] - self.arrivals[0]) / gaps if gaps > 0 else None

    @property
    def tpot(self) -> float | None:
        """Time per output token: (e2e - ttft) / (tokens - 1), however tokens were packed into chunks."""
        if self.itl is None or self.tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1)
