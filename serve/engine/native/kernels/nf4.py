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
GATHER, REGISTERS, SELECT, PERMUTE = range(4)
"""How a code is decoded: a load from a table of 16, `tl.gather` of one, a tree of selects, or PTX's `prmt`."""


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


CONFIGS: dict[tuple[str, int], Config] = {
    ("linear", 1): Config(8, blocks=8, warps=2, split=2, decode=PERMUTE),
    ("linear", 16): Config(32, warps=2, split=8, decode=PERMUTE),
    ("linear", 64): Config(64, split=4, decode=PERMUTE),
    ("gate_up", 1): Config(16, blocks=2, warps=1, decode=REGISTERS),
    ("gate_up", 16): Config(128, warps=2, stages=4, decode=PERMUTE),
    ("gate_up", 64): Config(128, warps=2, stages=4, decode=PERMUTE),
    ("gate_up", 128): Config(128, warps=4, decode=PERMUTE, scale_weights=True),
    ("down", 1): Config(8, blocks=8, warps=1, stages=1, decode=REGISTERS),
    ("down", 16): Config(128, warps=2, stages=1, decode=PERMUTE),
    ("down", 64): Config(128, warps=2, stages=4, decode=PERMUTE),
    ("down", 128): Config(128, warps=4, decode=PERMUTE, scale_weights=True),
    ("dequantize", 1): Config(128),
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
    """uint8 [E, K / 64, N, 32]; byte j of block b holds column 64b + j (high nibble) and 64b + 32 + j (low)."""
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
    code_map16: torch.Tensor
    """The same in bfloat16."""

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
                codes[expert, :, row:end] = _halves(part.codes.view(-1, blocks, BLOCKSIZE // 2)).transpose(0, 1)
                absmax[expert, :, row:end] = part.absmax.view(-1, blocks).T
                row = end
        code_map = torch.tensor(CODE_MAP, device=device)
        return cls(
            codes=codes,
            absmax=absmax,
            nested=torch.stack([torch.cat([_pairs(part) for part in parts]) for parts in experts]),
            starts=_starts(shapes, blocks).to(device),
            absmax_map=first[0].absmax_map,
            code_map=code_map,
            code_map16=code_map.bfloat16(),
        )

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """[E, N, K]"""
        (rows, columns), blocks = self.shape, self.codes.shape[1]
        codes = torch.stack((self.codes >> 4, self.codes & 15), 3).long()
        group = (self.starts + torch.arange(blocks, device=self.codes.device)[:, None]) // NESTED_BLOCKSIZE
        scale, offset = self.nested[:, group].unbind(-1)
        absmax = self.absmax_map[self.absmax.long()] * scale + offset
        weights = self.code_map[codes].flatten(3) * absmax[..., None]
        return weights.transpose(1, 2).reshape(-1, rows, columns).to(dtype)


def _halves(codes: torch.Tensor) -> torch.Tensor:
    """[N, blocks, 32] bytes of neighbouring columns as bytes of columns 32 apart."""
    left, right = codes[..., :16], codes[..., 16:]
    return torch.stack(((left & 0xF0) | (right >> 4), (left << 4) | (right & 0x0F)), -1).flatten(-2)


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


def arguments(weight: Nf4, dot: bool = False) -> tuple[torch.Tensor | int, ...]:
    """The arguments that every kernel begins with; `dot` if it decodes to bfloat16."""
    return (
        weight.codes,
        weight.absmax,
        weight.nested,
        weight.nested.shape[1],
        weight.starts,
        weight.absmax_map,
        weight.code_map16 if dot else weight.code_map,
    )


INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# Triton's interpreter multiplies bfloat16 as the integers that it keeps it in (3.6.0).
OPERAND = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)
_MAP = tuple(tl.constexpr(value) for value in CODE_MAP)
M0, M1, M2, M3, M4, M5, M6, M7, M8, M9, M10, M11, M12, M13, M14, M15 = _MAP


def _permute_asm() -> str:
    """PTX that decodes 4 bytes, $4, to bfloat16: high nibbles to $0 and $1, low nibbles to $2 and $3.

    A table of 16 bytes is looked up four codes at a time: `prmt` of its lower and of its upper 8 bytes by the codes'
    low 3 bits, then `prmt` of both results by their high bits. So for the upper and the lower bytes of the values.
    """
    words = [word & 0xFFFF for word in torch.tensor(CODE_MAP).bfloat16().view(torch.int16).tolist()]
    planes = [bytes(word >> 8 for word in words), bytes(word & 0xFF for word in words)]
    lines = [".reg .b32 c, i, s, a, b, h, l;"]
    for half, (high, low) in enumerate((("$0", "$2"), ("$1", "$3"))):
        lines += ["mov.b32 c, $4;"] if half == 0 else ["shr.u32 c, $4, 16;"]
        lines += ["and.b32 i, c, 0x7777;", "and.b32 s, c, 0x8888;", "shr.u32 s, s, 1;", "or.b32 s, s, 0x3210;"]
        for plane, name in zip(planes, "hl", strict=True):
            tables = [int.from_bytes(plane[begin : begin + 4], "little") for begin in range(0, 16, 4)]
            lines += [
                f"prmt.b32 a, {tables[0]:#010x}, {tables[1]:#010x}, i;",
                f"prmt.b32 b, {tables[2]:#010x}, {tables[3]:#010x}, i;",
                f"prmt.b32 {name}, a, b, s;",
            ]
        lines += [f"prmt.b32 {low}, l, h, 0x6240;", f"prmt.b32 {high}, l, h, 0x7351;"]
    return "{ " + " ".join(lines) + " }"


PERMUTE_ASM = tl.constexpr(_permute_asm())


@triton.jit
def _select(code):
    """NF4's value of each code, float32."""
    one, two, four = (code & 1) != 0, (code & 2) != 0, (code & 4) != 0
    a = tl.where(two, tl.where(one, M3, M2), tl.where(one, M1, M0))
    b = tl.where(two, tl.where(one, M7, M6), tl.where(one, M5, M4))
    c = tl.where(two, tl.where(one, M11, M10), tl.where(one, M9, M8))
    d = tl.where(two, tl.where(one, M15, M14), tl.where(one, M13, M12))
    return tl.where((code & 8) != 0, tl.where(four, d, c), tl.where(four, b, a))


@triton.jit
def lookup(map_ptr, index):
    """map_ptr[index], float32 or bfloat16, in PTX: what is loaded by `tl.load` in a loop goes through a pipeline."""
    if INTERPRETED:
        value = tl.load(map_ptr + index)
    elif map_ptr.dtype.element_ty == tl.float32:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.f32 $0, [$1];", "=f,l", [map_ptr + index], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        value = tl.inline_asm_elementwise(
            "ld.global.nc.b16 $0, [$1];", "=h,l", [map_ptr + index], dtype=tl.bfloat16, is_pure=True, pack=1
        )
    return value


@triton.jit
def decode(codes, map_ptr, DECODE: tl.constexpr):
    """Values of the high and the low nibbles of `codes` uint8; float32, or bfloat16 if `map_ptr` or DECODE has it."""
    if DECODE == 0:
        high, low = lookup(map_ptr, (codes >> 4).to(tl.int32)), lookup(map_ptr, (codes & 15).to(tl.int32))
    elif DECODE == 1:
        table = tl.load(map_ptr + tl.arange(0, 16))
        high = tl.gather(table, tl.reshape((codes >> 4).to(tl.int32), [codes.numel]), 0).reshape(codes.shape)
        low = tl.gather(table, tl.reshape((codes & 15).to(tl.int32), [codes.numel]), 0).reshape(codes.shape)
    elif DECODE == 2:
        high, low = _select((codes >> 4).to(tl.int32)), _select((codes & 15).to(tl.int32))
    else:
        high, low = tl.inline_asm_elementwise(
            PERMUTE_ASM, "=r,=r,=r,=r,r", [codes], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    return high, low


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
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr,
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
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr,
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
    codes_ptr, absmax_ptr, nested_ptr, groups, starts_ptr, absmax_map_ptr, map_ptr,
    out_ptr, expert, N, KB: tl.constexpr, ROWS: tl.constexpr, DECODE: tl.constexpr,
):  # fmt: skip
    block, index = tl.program_id(0), tl.program_id(2)
    expert += index
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    ok = n < N
    j = tl.arange(0, 32)
    first, second, offset, cut = nested_scales(nested_ptr, groups, starts_ptr, expert, n, ok)
    at = (expert.to(tl.int64) * KB + block) * N + n
    codes = tl.load(codes_ptr + at[:, None] * 32 + j[None, :], mask=ok[:, None], other=0)
    byte = tl.load(absmax_ptr + at, mask=ok, other=0)
    absmax = lookup(absmax_map_ptr, byte.to(tl.int32)) * tl.where(block < cut, first, second) + offset
    high, low = decode(codes, map_ptr, DECODE)
    out = out_ptr + ((index.to(tl.int64) * N + n) * (KB * 64))[:, None] + block * 64 + j[None, :]
    tl.store(out, (high.to(tl.float32) * absmax[:, None]).to(tl.bfloat16), mask=ok[:, None])
    tl.store(out + 32, (low.to(tl.float32) * absmax[:, None]).to(tl.bfloat16), mask=ok[:, None])
