import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from serve.engine.native.kernels.nf4 import CODE_MAP, Nf4, Nf4Part, _permute_asm, _shared_asm, _tables, dequantize
from tests.unit.serve.engine.native.kernels.quantised import random_part


def stored(rows: int, columns: int, seed: int) -> tuple[Nf4Part, torch.Tensor]:
    """A matrix, and what bitsandbytes dequantises it to."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
    codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    return Nf4Part.from_checkpoint(codes, state.as_dict(packed=True)), dequantize_4bit(codes, state)


@pytest.mark.parametrize("shapes", [[(128, 128)], [(320, 192)], [(128, 128), (64, 128), (64, 128)], [(7, 2880)]])
def test_packed_experts_dequantise_to_what_bitsandbytes_makes_of_their_parts(shapes):
    experts = [[stored(*shape, seed=10 * expert + i) for i, shape in enumerate(shapes)] for expert in range(2)]
    weight = Nf4.pack([[part for part, _ in parts] for parts in experts])
    expected = torch.stack([torch.cat([dense for _, dense in parts]) for parts in experts])
    assert weight.shape == expected.shape[1:] and weight.experts == 2
    torch.testing.assert_close(weight.dequantize(torch.float32), expected, rtol=1e-6, atol=1e-7)


def test_the_kernel_dequantises_as_torch_does():
    weight = Nf4.pack(
        [[random_part(320, 192, 3), random_part(20, 192, 4)], [random_part(320, 192, 5), random_part(20, 192, 6)]]
    )
    expected = weight.dequantize(torch.float32)
    torch.testing.assert_close(dequantize(weight).float(), expected, rtol=2**-7, atol=0)
    assert torch.equal(dequantize(weight, 1), dequantize(weight)[1])


@pytest.mark.parametrize("asm", [_permute_asm, _shared_asm])
def test_bytes_decode_to_pairs_of_values_for_the_left_half_and_for_the_right(asm):
    table = torch.tensor(CODE_MAP).bfloat16().view(torch.int16).tolist()
    for byte in range(256):
        codes = [byte, 255 - byte, byte ^ 0x5A, 7 * byte % 256]
        pairs = [(table[code & 15] & 0xFFFF) | (table[code >> 4] & 0xFFFF) << 16 for code in codes]
        found = run_ptx(asm(), int.from_bytes(bytes(codes), "little"))
        assert found == [pairs[0], pairs[2], pairs[1], pairs[3]]


def run_ptx(text: str, argument: int, lane: int = 5) -> list[int]:
    """$0 to $3 after the few instructions that a decoder is made of."""
    tables = [word & 0xFFFFFFFF for word in _tables()]
    registers = {"$4": argument, "nf4_bank": 4 * lane} | {f"nf4_table{i}": tables[32 * i + lane] for i in range(4)}
    for line in text.strip("{ }").split(";"):
        operation, _, operands = line.strip().partition(" ")
        if operation in ("", ".reg"):
            continue
        target, *sources = operands.split(", ")
        values = [registers[name] if name in registers else int(name, 0) for name in (s.strip("[]") for s in sources)]
        registers[target] = {
            "shr.u32": lambda a, n: a >> n,
            "and.b32": lambda a, b: a & b,
            "or.b32": lambda a, b: a | b,
            "mad.lo.u32": lambda a, b, c: a * b + c,
            "ld.shared.b32": lambda at: tables[128 + at // 128],
            "prmt.b32": permute,
        }[operation](*values)
    return [registers[f"${i}"] for i in range(4)]


def permute(a: int, b: int, selector: int) -> int:
    source, nibbles = a.to_bytes(4, "little") + b.to_bytes(4, "little"), [selector >> 4 * i & 15 for i in range(4)]
    assert all(nibble < 8 for nibble in nibbles), "the high bit of a nibble replicates the sign"
    return int.from_bytes(bytes(source[nibble] for nibble in nibbles), "little")


def test_a_weight_that_the_kernels_cannot_read_is_refused():
    codes, state = quantize_4bit(torch.randn(64, 128), blocksize=128, compress_statistics=True, quant_type="nf4")
    with pytest.raises(ValueError, match="'blocksize': 128"):
        Nf4Part.from_checkpoint(codes, state.as_dict(packed=True))
    with pytest.raises(ValueError, match="parts of shapes"):
        Nf4.pack([[random_part(64, 128, 0)], [random_part(32, 128, 0)]])
