"""What the gateway's process works before a first token leaves it that comes together with the next tokens of others.

    python -m tests.bench.first_tokens --at-once 1 8 32 200

The gateway's application with its engines and line, asked without sockets and Ray, and an engine that steps when it is
told to. Times are CPU time of the one thread that does it all, from the step on, so that what else the machine does
does not count; medians over rounds. `first` are the first tokens of `--new` requests, `later` the mean of the others'
tokens, `all` is when the last one has left.
"""

import argparse
import asyncio
import gc
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from configs.paths import Home
from serve.engine.protocol import TokenChunk
from serve.gateway import build_app
from serve.generation import engine_client
from tests.fakes import FakeEngine, FakeHandle
from tests.gateway_server import BASIC, Server, tokens

ANSWER = tokens("<|channel|>final<|message|>" + " a" * 1000)


class Stepping(FakeEngine):
    """Every request gains a token when `step` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, asyncio.Queue] = {}

    async def generate(self, request):
        row = self.rows[request.request_id] = asyncio.Queue()
        try:
            for count, token in enumerate(ANSWER, 1):
                await row.get()
                yield TokenChunk([token], None, len(request.prompt_ids), count)
        finally:
            del self.rows[request.request_id]

    def step(self) -> None:
        for row in self.rows.values():
            row.put_nowait(None)


class Clients:
    """Streams that are asked for in this process, and when each of their events left in the step since `began`."""

    def __init__(self, app) -> None:
        self._app = app
        self.began = 0.0
        self.first: list[float] = []
        self.later: list[float] = []

    async def ask(self) -> None:
        body = [{"type": "http.request", "body": json.dumps(BASIC | {"stream": True}).encode(), "more_body": False}]
        begun = False

        async def receive() -> dict:
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message: dict) -> None:
            nonlocal begun
            if message["type"] == "http.response.body":
                (self.later if begun else self.first).append(time.thread_time() - self.began)
                begun = True

        about = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": []}
        about |= {"http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1)}
        await self._app(about | {"raw_path": about["path"].encode(), "root_path": "", "state": {}}, receive, send)

    async def step(self, engine: Stepping) -> None:
        self.first, self.later, self.began, left = [], [], time.thread_time(), -1
        engine.step()
        while left < (left := len(self.first) + len(self.later)):
            await asyncio.sleep(0.1)


async def measure(streams: int, new: int, rounds: int, home: Home) -> str:
    gateway, engine = await Server(home)._gateway(), Stepping()
    gateway.engines.clients = [engine_client.EngineClient("engine_1", FakeHandle(engine))]
    await gateway.catalog.refresh()
    clients = Clients(build_app(gateway))

    async def open_streams(count: int) -> list[asyncio.Task]:
        wanted = len(engine.rows) + count
        tasks = [asyncio.create_task(clients.ask()) for _ in range(count)]
        while len(engine.rows) < wanted:
            await asyncio.sleep(0.01)
        return tasks

    old = await open_streams(streams - new)
    for _ in range(5):  # past the header, whose tokens nobody is sent
        await clients.step(engine)
    gc.collect()
    gc.freeze()  # as Serve does in a replica
    found = []
    for _ in range(rounds):
        tasks = await open_streams(new)
        await clients.step(engine)
        found.append((statistics.median(clients.first), statistics.mean(clients.later), max(clients.later)))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        while len(engine.rows) > len(old):
            await asyncio.sleep(0.01)
    for task in old:
        task.cancel()
    return "".join(f"{statistics.median(each) * 1000:9.1f}" for each in zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--new", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--at-once", type=int, nargs="+", default=[engine_client.AT_ONCE])
    options = parser.parse_args()
    print("  at once    first    later      all  (ms of CPU time)")
    for engine_client.AT_ONCE in options.at_once:
        folder = tempfile.mkdtemp(prefix="tdb", dir="/tmp")
        try:
            found = asyncio.run(measure(options.streams, options.new, options.rounds, Home(Path(folder))))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{engine_client.AT_ONCE:9}{found}", flush=True)


if __name__ == "__main__":
    main()
