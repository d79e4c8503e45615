"""Structured logs: one JSON object a line, one file per actor in HOME/logs, written by every process of the cluster.

A process calls `begin` once and logs with the standard library; `extra` are fields of the line. `tandem logs` reads.
"""

from actors.logs.handler import OWN, begin, flush
from actors.logs.record import REQUEST

__all__ = ["OWN", "REQUEST", "begin", "flush"]
