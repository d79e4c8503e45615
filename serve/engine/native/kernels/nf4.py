"""NF4 matrices as the kernels read them, and the device functions that decode and multiply them.

A checkpoint's codes and absmax bytes are rearranged, never requantised. Knows nothing of layers or of routing;
`linear` and `experts` build on it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import triton
import triton.language as tl

BLOCKSIZE = 64
"""Weights per absmax."""
NESTED_BLOCKSIZE = 256
"""Absmaxes per nested absmax, over the flat index of one stored matrix."""
CODE_MAP = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""What the 16 codes stand for: `bitsandbytes.functional.get_4bit_type("nf4")`."""
GATHER, PERMUTE, SHARED = range(3)
"""How codes are decoded: each by a load from a table of 16, four by PTX's `prmt`, or two by a load from a table of 256
in shared memory, which holds it once for each of the 32 banks: 32 KiB that Triton doesn't know of, so that a launch
fails (triton 3.6.0) if its own part is above 16 and at most 48 KiB."""


class Config(NamedTuple):
    """How one kernel is launched for one class of sizes."""

    rows: int
    """Of the weight, per program; a power of two."""
    blocks: int = 1
    """Of 64 columns, per step of the loop; a power of two. The kernels with `tl.dot` take one."""
    warps: int = 4
    stages: int = 3
    split: int = 1
    """Programs that share the columns of a row; only `linear` splits."""
    decode: int = GATHER
    scale_weights: bool = False
    """Scale weights before `tl.dot`, not its result after each 64 columns."""
    dot: bool = False
    """One row of x is multiplied as the first of 16, too, on tensor cores."""


CONFIGS: dict[tuple[str, int], Config] = {
    ("linear", 1): Config(8, blocks=8, warps=2, split=2, decode=PERMUTE),
    ("linear", 16): Config(32, warps=2, split=8, decode=PERMUTE),
    ("linear", 64): Config(64, split=4, decode=PERMUTE),
    ("gate_up", 1): Config(32, blocks=2, warps=2, decode=SHARED),
    ("gate_up", 16): Config(128, warps=2, stages=1, decode=SHARED),
    ("gate_up", 64): Config(64, decode=PERMUTE),
    ("gate_up", 128): Config(128, warps=8, decode=PERMUTE, scale_weights=True),
    ("down", 1): Config(8, blocks=8, warps=1, stages=1, decode=PERMUTE),
    ("down", 16): Config(256, warps=2, stages=2, decode=SHARED),
    ("down", 64): Config(64, decode=PERMUTE),
    ("down", 128): Config(128, warps=8, decode=PERMUTE, scale_weights=True),
    ("dequantize", 1): Config(128, decode=PERMUTE),
}
"""By kernel and rows of x per program; 1 is the kernel without `tl.dot`. `tests.bench.native_kernels` sweeps it."""


@dataclass(frozen=True)
class Nf4Part:
    """One matrix [N, K] as bitsandbytes stores it; K is a multiple of 64."""

    codes: torch.Tensor
    """uint8 [N * K / 2, 1]; element 2i is the high nibble of byte i."""
    absmax: torch.Tensor
    """uint8 [N * K / 64]"""
    nested_absmax: torch.Tensor
    """float32 [ceil(N * K / 64 / 256)]"""
    absmax_map: torch.Tensor
    """float32 [256]"""
    offset: float
    """Added to every absmax."""
    shape: tuple[int, int]

    @classmethod
    def from_checkpoint(cls, codes: torch.Tensor, state: Mapping[str, torch.Tensor]) -> "Nf4Part":
        """`state` by the suffixes of `models.base.split_nf4.QUANT_STATE`.

        Raises ValueError for a matrix that isn't NF4 in blocks of 64 with absmaxes quantised in blocks of 256.
        """
        meta = json.loads(bytes(state["quant_state.bitsandbytes__nf4"].tolist()))
        wanted = {"quant_type": "nf4", "blocksize": BLOCKSIZE, "nested_blocksize": NESTED_BLOCKSIZE}
        found = {key: meta.get(key) for key in wanted}
        rows, columns = meta["shape"]
        if found != wanted or columns % BLOCKSIZE:
            raise ValueError(f"a weight of shape {rows, columns} is quantised as {found}; the kernels read {wanted}")
        if not torch.equal(state["quant_map"].cpu(), torch.tensor(CODE_MAP)):
            raise ValueError(f"quant_map is {state['quant_map'].tolist()}; the kernels decode {CODE_MAP}")
        return cls(
            codes,
            state["absmax"],
            state["nested_absmax"],
            state["nested_quant_map"],
            meta["nested_offset"],
            (rows, columns),
        )


@dataclass(frozen=True)
class Nf4:
    """E matrices [N, K], blocks of 64 columns outermost, so that the rows of a tile are contiguous."""

    codes: torch.Tensor
    """uint8 [E, K / 64, N, 32]; byte 2i + h of a block holds its columns 32h + 2i (low nibble) and 32h + 2i + 1 (high),
    so that a byte decodes to 32 bits of an operand of `tl.dot`."""
    absmax: torch.Tensor
    """uint8 [E, K / 64, N]"""
    nested: torch.Tensor
    """float32 [E, G, 2], scale and offset: an absmax is absmax_map[byte] * scale + offset."""
    starts: torch.Tensor
    """int32 [N]; row n's block b has the nested pair (starts[n] + b) // 256."""
    absmax_map: torch.Tensor
    """float32 [256]"""
    code_map: torch.Tensor
    """float32 [16]"""
    tables: torch.Tensor
    """int32 [4 * 32 + 256]: see `_tables`."""

    @property
    def experts(self) -> int:
        return self.codes.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)"""
        return self.codes.shape[2], self.codes.shape[1] * BLOCKSIZE

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def to(self, device: torch.device | str) -> "Nf4":
        return Nf4(*(getattr(self, field.name).to(device) for field in fields(self)))

    @classmethod
    def pack(cls, experts: Sequence[Sequence[Nf4Part]]) -> "Nf4":
        """Every expert's parts, their rows one after the other, on the device of the parts.

        Raises ValueError if experts differ in shapes or parts in their map of absmaxes.
        """
        first = experts[0]
        shapes = [part.shape for part in first]
        blocks, rows, device = shapes[0][1] // BLOCKSIZE, sum(shape[0] for shape in shapes), first[0].codes.device
        for parts in experts:
            if [part.shape for part in parts] != shapes or any(part.shape[1] != shapes[0][1] for part in parts):
                raise ValueError(f"one expert has parts of shapes {[part.shape for part in parts]}, the first {shapes}")
            if not all(torch.equal(part.absmax_map, first[0].absmax_map) for part in parts):
                raise ValueError("parts of one weight have different maps of absmaxes; quantise them with one version")
        codes = torch.empty(len(experts), blocks, rows, BLOCKSIZE // 2, dtype=torch.uint8, device=device)
        absmax = torch.empty(len(experts), blocks, rows, dtype=torch.uint8, device=device)
        for expert, parts in enumerate(experts):
            row = 0
            for part in parts:
                end = row + part.shape[0]
                codes[expert, :, row:end] = _interleave(part.codes.view(-1, blocks, BLOCKSIZE // 2)).transpose(0, 1)
                absmax[expert, :, row:end] = part.absmax.view(-1, blocks).T
                row = end
        return cls(
            codes=codes,
            absmax=absmax,
            nested=torch.stack([torch.cat([_pairs(part) for part in parts]) for parts in experts]),
            starts=_starts(shapes, blocks).to(device),
            absmax_map=first[0].absmax_map,
            code_map=torch.tensor(CODE_MAP, device=device),
            tables=torch.tensor(_tables(), dtype=torch.int32, device=device),
        )

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """[E, N, K]"""
        (rows, columns), blocks = self.shape, self.codes.shape[1]
        codes = torch.stack((self.codes & 15, self.codes >> 4), -1).long()
        codes = codes.unflatten(3, (16, 2)).transpose(3, 4).flatten(3)
        group = (self.starts + torch.arange(blocks, device=self.codes.device)[:, None]) // NESTED_BLOCKSIZE
        scale, offset = self.nested[:, group].unbind(-1)
        absmax = self.absmax_map[self.absmax.long()] * scale + offset
        weights = self.code_map[codes] * absmax[..., None]
        return weights.transpose(1, 2).reshape(-1, rows, columns).to(dtype)


def _interleave(codes: torch.Tensor) -> torch.Tensor:
    """[N, blocks, 32] bytes of a checkpoint as those of `Nf4.codes`."""
    codes = codes.unflatten(2, (2, 16)).transpose(2, 3).flatten(2)
    return (codes >> 4) | (codes << 4)


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little", signed=True) for at in range(0, len(data), 4)]


def _planes() -> list[int]:
    """The upper bytes of the 16 values in bfloat16, then their lower bytes."""
    values = torch.tensor(CODE_MAP).bfloat16().view(torch.int16).tolist()
    return _words(bytes(value >> 8 & 0xFF for value in values) + bytes(value & 0xFF for value in values))


def _tables() -> list[int]:
    """What decoders look up: every other word of the planes, 32 times each, and for every byte the pair of values in
    bfloat16 that it stands for."""
    values = torch.tensor(CODE_MAP).bfloat16().view(torch.int16).tolist()
    pairs = b"".join(
        values[code].to_bytes(2, "little", signed=True) for byte in range(256) for code in (byte & 15, byte >> 4)
    )
    return [word for word in _planes()[::2] for _ in range(32)] + _words(pairs)


def _pairs(part: Nf4Part) -> torch.Tensor:
    """float32 [G, 2]"""
    return torch.stack((part.nested_absmax, torch.full_like(part.nested_absmax, part.offset)), -1)


def _starts(shapes: Sequence[tuple[int, int]], blocks: int) -> torch.Tensor:
    """See Nf4.starts; each part begins with a nested block of its own."""
    starts, begin = [], 0
    for rows, _ in shapes:
        starts.append(begin + torch.arange(rows, dtype=torch.int32) * blocks)
        begin += triton.cdiv(rows * blocks, NESTED_BLOCKSIZE) * NESTED_BLOCKSIZE
    return torch.cat(starts)


def dequantize(weight: Nf4, expert: int | None = None) -> torch.Tensor:
    """bfloat16 [E, N, K], or [N, K] of one expert."""
    (rows, columns), config = weight.shape, CONFIGS["dequantize", 1]
    experts = weight.experts if expert is None else 1
    out = torch.empty(experts, rows, columns, dtype=torch.bfloat16, device=weight.codes.device)
    _dequantize[(columns // BLOCKSIZE, triton.cdiv(rows, config.rows), experts)](
        *arguments(weight),
        out,
        expert or 0,
        rows,
        columns // BLOCKSIZE,
        ROWS=config.rows,
        DECODE=config.decode,
        num_warps=config.warps,
    )
    return out if expert is None else out[0]


def arguments(weight: Nf4) -> tuple[torch.Tensor | int, ...]:
    """The arguments that every kernel begins with."""
    return (
        weight.codes,
        weight.absmax,
        weight.nested,
        weight.nested.shape[1],
        weight.starts,
        weight.absmax_map,
        weight.code_map,
        weight.tables,
    )


INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# Triton's interpreter multiplies bfloat16 as the integers that it keeps it in (3.6.0).
OPERAND = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


def _prepare_permute_asm() -> str:
    """PTX that loads words of tables at $1 to registers that `_permute_asm` knows by name.

    `prmt` takes one constant, so half of each table must come in a register. What ptxas (12.8) knows to be constant or
    the same in all lanes, it keeps elsewhere and moves to a register before each `prmt`; so each lane has its own word.
    """
    lines = [".reg .b32 nf4_table<4>;", ".reg .b32 nf4_lane;", ".reg .b64 nf4_from;"]
    lines += ["mov.u32 nf4_lane, %laneid;", "mad.wide.u32 nf4_from, nf4_lane, 4, $1;"]
    lines += [f"ld.global.nc.b32 nf4_table{i}, [nf4_from + {128 * i}];" for i in range(4)]
    return " ".join([*lines, "mov.u32 $0, nf4_lane;"])


def _permute_asm() -> str:
    """PTX that decodes 4 bytes, $4, to bfloat16: the first and the third to $0 and $1, the others to $2 and $3.

    A table of 16 bytes is looked up four codes at a time: `prmt` of its lower and of its upper 8 bytes by the codes'
    low 3 bits, then `prmt` of both results by their high bits. So for the upper and the lower bytes of the values.
    """
    planes = [f"{word & 0xFFFFFFFF:#010x}" for word in _planes()]
    lines = [".reg .b32 i, s, a, b, h, l;", "and.b32 i, $4, 0x77777777;", "shr.u32 s, $4, 1;"]
    lines += ["and.b32 s, s, 0x44444444;", "or.b32 s, s, 0x32103210;"]
    for first, second in (("$0", "$2"), ("$1", "$3")):
        for name, table in (("h", 0), ("l", 2)):
            lines += [
                f"prmt.b32 a, nf4_table{table}, {planes[2 * table + 1]}, i;",
                f"prmt.b32 b, nf4_table{table + 1}, {planes[2 * table + 3]}, i;",
                f"prmt.b32 {name}, a, b, s;",
            ]
        lines += [f"prmt.b32 {first}, l, h, 0x5140;", f"prmt.b32 {second}, l, h, 0x7362;"]
        if first == "$0":
            lines += ["shr.u32 i, i, 16;", "shr.u32 s, s, 16;"]
    return "{ " + " ".join(lines) + " }"


def _prepare_shared_asm(each: int = 16) -> str:
    """PTX that fills shared memory with the 256 words after the first 128 at $1, each in all 32 banks.

    A thread stores 16 bytes at a time, and loads `each` words before it stores the first.
    """
    lines = [f".reg .b32 v<{each}>;", f".reg .pred q<{each}>;", ".reg .pred more;"]
    lines += [".reg .b32 at, step, base, to;", ".reg .b64 from;"]
    lines += ["mov.u32 at, %tid.x;", "mov.u32 step, %ntid.x;", "mov.u32 base, nf4_pairs;", "fill:"]
    for i in range(each):
        lines += [f"mad.lo.u32 to, step, {i}, at;", f"setp.lt.u32 q{i}, to, 2048;", "shr.u32 to, to, 3;"]
        lines += ["mad.wide.u32 from, to, 4, $1;", f"@q{i} ld.global.nc.b32 v{i}, [from + 512];"]
    for i in range(each):
        lines += [f"mad.lo.u32 to, step, {i}, at;", "mad.lo.u32 to, to, 16, base;"]
        lines += [f"@q{i} st.shared.v4.b32 [to], {{v{i}, v{i}, v{i}, v{i}}};"]
    lines += [f"mad.lo.u32 at, step, {each}, at;", "setp.lt.u32 more, at, 2048;", "@more bra fill;", "bar.sync 0;"]
    lines += ["mov.u32 at, %laneid;", "mad.lo.u32 nf4_bank, at, 4, base;", "mov.u32 $0, nf4_bank;"]
    return " ".join([".shared .align 128 .b8 nf4_pairs[32768];", ".reg .b32 nf4_bank;", "{", *lines, "}"])


def _shared_asm() -> str:
    """PTX that decodes 4 bytes, $4, as `_permute_asm` does."""
    lines = [".reg .b32 a0, a1, a2, a3;"]
    for byte in range(4):
        lines += [f"prmt.b32 a{byte}, $4, 0, {0x4440 + byte:#06x};", f"mad.lo.u32 a{byte}, a{byte}, 128, nf4_bank;"]
    lines += [f"ld.shared.b32 ${out}, [a{byte}];" for out, byte in enumerate((0, 2, 1, 3))]
    return "{ " + " ".join(lines) + " }"


PERMUTE_ASM = tl.constexpr(_permute_asm())
PREPARE_PERMUTE_ASM = tl.constexpr(_prepare_permute_asm())
SHARED_ASM = tl.constexpr(_shared_asm())
PREPARE_SHARED_ASM = tl.constexpr(_prepare_shared_asm())


@triton.jit
def lookup(map_ptr, index):
    """map_ptr[index], float32, in PTX: what is loaded by `tl.load` in a loop goes through a pipeline."""
    if INTERPRETED:
        value = tl.load(map_ptr + index)
    else:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.f32 $0, [$1];", "=f,l", [map_ptr + index], dtype=tl.float32, is_pure=True, pack=1
        )
    return value


@triton.jit
def prepare(tables_ptr, DECODE: tl.constexpr):
    """Comes once and before `decode`; all threads of the program take part.

    It leaves names to PTX, as arguments to `decode` would keep Triton (3.6.0) from decoding in the layout of `tl.dot`'s
    operand.
    """
    if DECODE == 1:
        tl.inline_asm_elementwise(PREPARE_PERMUTE_ASM, "=r,l", [tables_ptr], dtype=tl.int32, is_pure=False, pack=1)
    elif DECODE == 2:
        tl.inline_asm_elementwise(PREPARE_SHARED_ASM, "=r,l", [tables_ptr], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def decode(codes, map_ptr, DECODE: tl.constexpr):
    """The left and the right half of each block, `codes` uint8 [..., 32]; float32, or bfloat16 if DECODE isn't GATHER.

    A thread must have pairs of neighbours of `codes`, and two pairs at least, unless DECODE is GATHER.
    """
    if DECODE == 0:
        low, high = lookup(map_ptr, (codes & 15).to(tl.int32)), lookup(map_ptr, (codes >> 4).to(tl.int32))
        pairs = tl.reshape(tl.join(low, high), [codes.numel // 2, 2, 2])
        left, right = tl.split(tl.permute(pairs, [0, 2, 1]))
        left, right = tl.reshape(left, codes.shape), tl.reshape(right, codes.shape)
    else:
        left, right = tl.inline_asm_elementwise(
            PERMUTE_ASM if DECODE == 1 else SHARED_ASM, "=&r,=&r,=&r,=&r,r", [codes],
            dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
    return left, right


@triton.jit
def nested_scales(nested_ptr, groups, starts_ptr, expert, n, ok):
    """What a row's absmaxes are scaled by, before and from block `cut` on, and their offset."""
    start = tl.load(starts_ptr + n, mask=ok, other=0)
    group = start // 256
    nested_ptr += expert * groups * 2
    first = tl.load(nested_ptr + group * 2, mask=ok, other=0)
    offset = tl.load(nested_ptr + group * 2 + 1, mask=ok, other=0)
    second = tl.load(nested_ptr + tl.minimum(group + 1, groups - 1) * 2, mask=ok, other=0)
    return first, second, offset, 256 - start % 256


@triton.jit
def nf4_rows(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    x_ptr, expert, n, N, part,
    KB: tl.constexpr, SPLIT: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, STAGES: tl.constexpr,
    DECODE: tl.constexpr,
):  # fmt: skip
    """float32 [ROWS]: rows `n` of an expert times x, over one of SPLIT parts of its KB blocks."""
    EACH: tl.constexpr = (KB + SPLIT - 1) // SPLIT
    end = tl.minimum(part * EACH + EACH, KB)
    codes_ptr += expert.to(tl.int64) * KB * N * 32
    absmax_ptr += expert.to(tl.int64) * KB * N
    first, second, offset, cut = nested_scales(nested_ptr, groups, starts_ptr, expert, n, n < N)
    j = tl.arange(0, 32)
    prepare(tables_ptr, DECODE)
    acc = tl.zeros([BLOCKS, ROWS, 32], tl.float32)
    for step in tl.range(0, EACH, BLOCKS, num_stages=STAGES):
        block = part * EACH + step + tl.arange(0, BLOCKS)
        ok = (block < end)[:, None] & (n < N)[None, :]
        at = block[:, None] * N + n[None, :]
        codes = tl.load(codes_ptr + at[:, :, None] * 32 + j[None, None, :], mask=ok[:, :, None], other=0)
        byte = tl.load(absmax_ptr + at, mask=ok, other=0)
        column = block[:, None] * 64 + j[None, :]
        inside = (block < end)[:, None]
        left = tl.load(x_ptr + column, mask=inside, other=0).to(tl.float32)
        right = tl.load(x_ptr + column + 32, mask=inside, other=0).to(tl.float32)
        high, low = decode(codes, map_ptr, DECODE)
        scale = tl.where(block[:, None] < cut[None, :], first[None, :], second[None, :])
        absmax = lookup(absmax_map_ptr, byte.to(tl.int32)) * scale + offset[None, :]
        product = high.to(tl.float32) * left[:, None, :] + low.to(tl.float32) * right[:, None, :]
        acc += product * absmax[:, :, None]
    return tl.sum(tl.sum(acc, 2), 0)


@triton.jit
def nf4_dot(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    x_ptr, x_rows, expert, n, N, part,
    KB: tl.constexpr, SPLIT: tl.constexpr, ROWS: tl.constexpr, X_ROWS: tl.constexpr, STAGES: tl.constexpr,
    DECODE: tl.constexpr, SCALE_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """float32 [ROWS, X_ROWS]: rows `n` of an expert times rows `x_rows` of x [*, KB * 64], over one of SPLIT parts."""
    EACH: tl.constexpr = (KB + SPLIT - 1) // SPLIT
    codes_ptr += expert.to(tl.int64) * KB * N * 32
    absmax_ptr += expert.to(tl.int64) * KB * N
    ok = n < N
    first, second, offset, cut = nested_scales(nested_ptr, groups, starts_ptr, expert, n, ok)
    j = tl.arange(0, 32)
    prepare(tables_ptr, DECODE)
    x_at = x_ptr + x_rows.to(tl.int64)[None, :] * (KB * 64) + j[:, None]
    acc = tl.zeros([ROWS, X_ROWS], tl.float32)
    for step in tl.range(0, EACH, num_stages=STAGES):
        block = part * EACH + step
        inside = ok & (block < KB)
        at = block * N + n
        codes = tl.load(codes_ptr + at[:, None] * 32 + j[None, :], mask=inside[:, None], other=0)
        byte = tl.load(absmax_ptr + at, mask=inside, other=0)
        left = tl.load(x_at + block * 64, mask=block < KB, other=0)
        right = tl.load(x_at + block * 64 + 32, mask=block < KB, other=0)
        high, low = decode(codes, map_ptr, DECODE)
        absmax = lookup(absmax_map_ptr, byte.to(tl.int32)) * tl.where(block < cut, first, second) + offset
        if SCALE_WEIGHTS:
            high, low = high.to(tl.float32) * absmax[:, None], low.to(tl.float32) * absmax[:, None]
        high, low = high.to(tl.bfloat16).to(OPERAND), low.to(tl.bfloat16).to(OPERAND)
        left, right = left.to(OPERAND), right.to(OPERAND)
        if SCALE_WEIGHTS:
            acc = tl.dot(high, left, acc)
            acc = tl.dot(low, right, acc)
        else:
            acc += tl.dot(low, right, tl.dot(high, left)) * absmax[:, None]
    return acc


@triton.jit
def _dequantize(
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr, tables_ptr,
    out_ptr, expert, N, KB: tl.constexpr, ROWS: tl.constexpr, DECODE: tl.constexpr,
):  # fmt: skip
    block, index = tl.program_id(0), tl.program_id(2)
    expert += index
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    ok = n < N
    j = tl.arange(0, 32)
    prepare(tables_ptr, DECODE)
    first, second, offset, cut = nested_scales(nested_ptr, groups, starts_ptr, expert, n, ok)
    at = (expert.to(tl.int64) * KB + block) * N + n
    codes = tl.load(codes_ptr + at[:, None] * 32 + j[None, :], mask=ok[:, None], other=0)
    byte = tl.load(absmax_ptr + at, mask=ok, other=0)
    absmax = lookup(absmax_map_ptr, byte.to(tl.int32)) * tl.where(block < cut, first, second) + offset
    high, low = decode(codes, map_ptr, DECODE)
    out = out_ptr + ((index.to(tl.int64) * N + n) * (KB * 64))[:, None] + block * 64 + j[None, :]
    tl.store(out, (high.to(tl.float32) * absmax[:, None]).to(tl.bfloat16), mask=ok[:, None])
    tl.store(out + 32, (low.to(tl.float32) * absmax[:, None]).to(tl.bfloat16), mask=ok[:, None])
