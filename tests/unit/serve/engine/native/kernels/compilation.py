"""Compiles kernels for GPUs that aren't here: records the launches of a call, and reads what each needs."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that one program may have, by compute capability."""


class Launch(NamedTuple):
    kernel: JITFunction
    arguments: tuple
    options: dict
    """Keyword arguments: constants, num_warps, num_stages."""

    def __str__(self) -> str:
        constants = {key: value for key, value in self.options.items() if isinstance(value, int)}
        return f"{self.kernel.__name__} {constants}"


class Resources(NamedTuple):
    shared: int
    """Bytes of one program."""
    registers: int
    """Of one thread."""
    spilled: int
    """Bytes that one thread keeps in local memory for want of registers."""


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """The launches of the block, none of which happens; tensors may be on the device "meta"."""
    launches: list[Launch] = []
    run = JITFunction.run
    JITFunction.run = lambda kernel, *arguments, grid, warmup, **options: launches.append(
        Launch(kernel, arguments, options)
    )
    try:
        yield launches
    finally:
        JITFunction.run = run


def launches_of(*calls: Callable[[], object]) -> list[Launch]:
    """Different launches of the calls."""
    with recorded() as launches:
        for call in calls:
            call()
    return list({_signature(launch, GPUTarget("cuda", 90, 32))[0]: launch for launch in launches}.values())


def compile_launch(launch: Launch, capability: int) -> Resources:
    """Compile as a launch on such a GPU would."""
    target = GPUTarget("cuda", capability, 32)
    _, source, options = _signature(launch, target)
    compiled = triton.compile(source, target=target, options=options.__dict__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        log = subprocess.run([cuobjdump, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    usage = {name: int(size) for name, size in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", log)}
    return Resources(compiled.metadata.shared + usage["SHARED"], usage["REG"], usage["STACK"] + usage["LOCAL"])


def _signature(launch: Launch, target: GPUTarget) -> tuple[str, ASTSource, object]:
    """What `JITFunction.run` derives from the arguments of a launch (triton 3.6.0), and a key that tells launches."""
    kernel, backend = launch.kernel, make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, _ = binder(*launch.arguments, **launch.options)
    kwargs = {key: value for key, value in launch.options.items() if key not in bound}
    options, signature, constants, attributes = kernel._pack_args(backend, kwargs, bound, specialization, None)
    source = ASTSource(kernel, signature, constants, attributes)
    return f"{source.hash()} {kwargs}", source, options
