"""Several streams of one request as one. Knows neither formats nor engines; chat and completions use it for choices."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[list[tuple[int, T]], None]:
    """What the streams give, as it comes, each with its stream's index; things ready together leave together.

    All streams are closed when one fails, whose error is raised then, or when this is.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as things:
            async for thing in things:
                yield [(0, thing)]
        return
    arrived: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue()

    async def drain(index: int) -> None:
        try:
            async with aclosing(streams[index]) as things:
                async for thing in things:
                    arrived.put_nowait((index, thing))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(drain(index)) for index in range(len(streams))]
    left = len(tasks)
    try:
        while left:
            found = [await arrived.get()]
            while not arrived.empty():
                found.append(arrived.get_nowait())
            left -= found.count(None)
            if ready := [each for each in found if isinstance(each, tuple)]:
                yield ready
            for error in (each for each in found if isinstance(each, Exception)):
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
