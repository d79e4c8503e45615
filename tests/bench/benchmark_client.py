"""What a streamed chunk costs the benchmark's own client, and what it would cost other ones. Needs no GPU.

    python -m tests.bench.benchmark_client --out FILE

A bare server in a process of its own sends CHUNKS events, 20 ms apart, to so many streams at once; measured is this
process's CPU time per chunk. The client sends nothing but that, so what is left of a core is room for more streams.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import httpx
import httpx2

from jobs.benchmark.endpoint import Endpoint

CHUNKS, GAP_S = 200, 0.02
CONCURRENCY = (1, 16, 64)
EVENT = (
    b'data: {"id":"chatcmpl-cf63c1b0a44046efb4a324f81641d699","choices":[{"delta":{"content":" The"},"index":0,'
    b'"logprobs":null,"finish_reason":null}],"created":1795455953,"model":"prod","object":"chat.completion.chunk",'
    b'"system_fingerprint":"base","usage":null}\n\n'
)
HI = [{"role": "user", "content": "Hi"}]

Streams = Callable[[str, int], Awaitable[int]]
"""Reads so many streams from a URL at once; gives the number of chunks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    clients: dict[str, Streams] = {"tandem benchmark": ours, "aiohttp": bare, "httpx": of(httpx), "httpx2": of(httpx2)}
    with server() as url:
        costs = {name: {str(count): cost(url, read, count) for count in CONCURRENCY} for name, read in clients.items()}
    versions = {module.__name__: module.__version__ for module in (aiohttp, httpx, httpx2)}
    result = {
        "command": "python -m tests.bench.benchmark_client",
        "machine": {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "versions": versions,
        "cpu_us_per_chunk_by_streams": costs,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


def cost(url: str, read: Streams, count: int) -> float:
    """Microseconds of CPU time per chunk, without the first stream's one-time costs."""
    asyncio.run(read(url, 1))
    before = time.process_time()
    chunks = asyncio.run(read(url, count))
    assert chunks == CHUNKS * count
    return round(1e6 * (time.process_time() - before) / chunks, 1)


async def ours(url: str, count: int) -> int:
    async with Endpoint(url, "prod") as endpoint:
        found = await asyncio.gather(*[endpoint.ask(HI, CHUNKS) for _ in range(count)])
    return sum(len(timing.arrivals) for timing in found)


async def bare(url: str, count: int) -> int:
    """aiohttp alone, line by line."""

    async def one(session: aiohttp.ClientSession) -> int:
        async with session.post(f"{url}/v1/chat/completions", json={}) as response:
            return sum([bool(json.loads(line[5:])) async for line in response.content if line.startswith(b"data: {")])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return sum(await asyncio.gather(*[one(session) for _ in range(count)]))


def of(module) -> Streams:
    """httpx or httpx2, line by line."""

    async def streams(url: str, count: int) -> int:
        async def one(client) -> int:
            async with client.stream("POST", f"{url}/v1/chat/completions", json={}) as response:
                lines = response.aiter_lines()
                return sum([bool(json.loads(line[5:])) async for line in lines if line.startswith("data: {")])

        async with module.AsyncClient(limits=module.Limits(max_connections=None), timeout=60) as client:
            return sum(await asyncio.gather(*[one(client) for _ in range(count)]))

    return streams


@contextlib.contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.benchmark_client", "--serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


async def serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for _ in range(CHUNKS):
                    writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
                    await asyncio.sleep(GAP_S)
                writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    main()
