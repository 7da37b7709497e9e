"""Triton kernels for what lies between the matrix products on a GPU, where memory traffic takes the time.

Each kernel reads its inputs once, computes in float32 and writes its outputs once, where torch's operators would write
and read every intermediate result. They take float16 and bfloat16, in contiguous tensors.

Shapes: T tokens of width W = H*D, H heads of width D, B sequences, M values of a gated layer. Rows, warps and
blocks are the fastest of those tried on an H200.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _normed(values, column, width, weight, bias, eps):
    """LayerNorm of rows [R, BLOCK], of which the first `width` columns count."""
    mean = tl.sum(values, 1)[:, None] / width
    centred = tl.where(column < width, values - mean, 0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1)[:, None] / width + eps)
    gain = tl.load(weight + column, mask=column < width, other=0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < width, other=0).to(tl.float32)
    return centred * scale * gain + shift


@triton.jit
def _add_norm(
    x,
    delta,
    weight,
    bias,
    total,
    normed,
    rows,
    width,
    eps,
    ADD: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None]
    at, inside = row.to(tl.int64) * width + column, (row < rows) & (column < width)
    values = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if ADD:
        values += tl.load(delta + at, mask=inside, other=0).to(tl.float32)
    if KEEP:
        tl.store(total + at, values, mask=inside)
    tl.store(normed + at, _normed(values, column, width, weight, bias, eps), mask=inside)


def norm(x: Tensor, layer: nn.LayerNorm, delta: Tensor | None = None) -> Tensor:
    """LayerNorm of `x`, or of `x + delta`, [..., W]."""
    return _launch_add_norm(x, x if delta is None else delta, layer, None, delta is not None)


def add_norm(x: Tensor, delta: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`x + delta` [..., W], and its LayerNorm."""
    total = torch.empty_like(x)
    return total, _launch_add_norm(x, delta, layer, total, True)


def _launch_add_norm(x: Tensor, delta: Tensor, layer: nn.LayerNorm, total: Tensor | None, add: bool) -> Tensor:
    rows, width, normed, per_program = x.numel() // x.shape[-1], x.shape[-1], torch.empty_like(x), 2
    _add_norm[(triton.cdiv(rows, per_program),)](
        x,
        delta,
        layer.weight,
        layer.bias,
        x if total is None else total,
        normed,
        rows,
        width,
        layer.eps,
        ADD=add,
        KEEP=total is not None,
        ROWS=per_program,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return normed


@triton.jit
def _gated_norm(
    gate_value,
    weight,
    bias,
    normed,
    width,
    padded,
    eps,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)[None]
    at, inside = row * (2 * padded) + column, column < width
    gate = tl.load(gate_value + at, mask=inside, other=0).to(tl.float32)
    values = gate * tl.sigmoid(gate) * tl.load(gate_value + at + padded, mask=inside, other=0).to(tl.float32)
    result = _normed(values, column, width, weight, bias, eps)
    tl.store(normed + row * padded + column, result, mask=column < padded)


def gated_norm(gate_value: Tensor, layer: nn.LayerNorm) -> Tensor:
    """LayerNorm of silu(gate) * value (SwiGLU, arXiv 2002.05202): [..., 2*M] to [..., M].

    M may be wider than the norm: the columns beyond it are padding, and zero in the result.
    """
    padded = gate_value.shape[-1] // 2
    block, normed = triton.next_power_of_2(padded), gate_value.new_empty(*gate_value.shape[:-1], padded)
    _gated_norm[(gate_value.numel() // (2 * padded),)](
        gate_value,
        layer.weight,
        layer.bias,
        normed,
        layer.weight.shape[0],
        padded,
        layer.eps,
        BLOCK=block,
        num_warps=4 if block <= 2048 else 16,
    )
    return normed


@triton.jit
def _rotate(
    qkv,
    cos,
    sin,
    tokens,
    rows,
    heads,
    stride,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]
    head = tl.arange(0, HEADS)[None, :, None]  # of queries, then of keys
    value = tl.arange(0, HALF)[None, None]
    table = (row % tokens) * (2 * HALF) + HALF + value  # both halves are equal, but for the sine's sign in the first
    c, s = tl.load(cos + table).to(tl.float32), tl.load(sin + table).to(tl.float32)
    at, inside = row.to(tl.int64) * stride + head * (2 * HALF) + value, (row < rows) & (head < heads)
    a = tl.load(qkv + at, mask=inside, other=0).to(tl.float32)
    b = tl.load(qkv + at + HALF, mask=inside, other=0).to(tl.float32)
    tl.store(qkv + at, a * c - b * s, mask=inside)
    tl.store(qkv + at + HALF, b * c + a * s, mask=inside)


def rotate_(qkv: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate queries and keys in place: qkv [B, T, 3, H, D], and the tables [T, D] of a `RotaryEmbedding`."""
    batch, tokens, _, heads, width = qkv.shape
    rows, per_program = batch * tokens, 2
    _rotate[(triton.cdiv(rows, per_program),)](
        qkv,
        cos,
        sin,
        tokens,
        rows,
        2 * heads,
        3 * heads * width,
        ROWS=per_program,
        HEADS=triton.next_power_of_2(2 * heads),
        HALF=width // 2,
        num_warps=4,
    )


@triton.jit
def _attend(
    q,
    k,
    v,
    out,
    q_starts,
    k_starts,
    q_stride,
    kv_stride,
    scale,
    D: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One head of up to QUERIES queries of a sequence, over blocks of KEYS keys (online softmax, arXiv 2205.14135)."""
    sequence, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q_start, k_start = tl.load(q_starts + sequence), tl.load(k_starts + sequence)
    queries, keys = tl.load(q_starts + sequence + 1) - q_start, tl.load(k_starts + sequence + 1) - k_start
    if block * QUERIES < queries:
        row, value = block * QUERIES + tl.arange(0, QUERIES), head * D + tl.arange(0, D)
        q_at, is_query = (q_start + row).to(tl.int64)[:, None], (row < queries)[:, None]
        query = tl.load(q + q_at * q_stride + value[None], mask=is_query, other=0)
        highest = tl.full([QUERIES], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        attended = tl.zeros([QUERIES, D], tl.float32)
        for first in range(0, keys, KEYS):
            column = first + tl.arange(0, KEYS)
            at, is_key = (k_start + column).to(tl.int64), column < keys
            key = tl.load(k + at[None] * kv_stride + value[:, None], mask=is_key[None], other=0)
            scores = tl.where(is_key[None], tl.dot(query, key) * (scale * LOG2_E), float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(highest - higher)
            total = total * shrink + tl.sum(weights, 1)
            values = tl.load(v + at[:, None] * kv_stride + value[None], mask=is_key[:, None], other=0)
            attended = attended * shrink[:, None] + tl.dot(weights.to(values.dtype), values)
            highest = higher
        width = tl.num_programs(1) * D
        tl.store(out + q_at * width + value[None], attended / total[:, None], mask=is_query)


def attend(qkv: Tensor, starts: Tensor, longest: int) -> Tensor:
    """Self-attention within each of B concatenated sequences: qkv [T, 3, H, D] to [T, H*D].

    `starts` int32 [B+1] has the first token of each sequence, and T; `longest` is the length of the longest one. D is a
    power of two, and at least 16.
    """
    tokens, _, heads, width = qkv.shape
    out, count = qkv.new_empty(tokens, heads * width), len(starts) - 1
    queries, keys, warps, stages = _tile(longest, tokens // count)
    q, k, v = qkv.unbind(1)
    _attend[(count, heads, triton.cdiv(longest, queries))](
        q,
        k,
        v,
        out,
        starts,
        starts,
        3 * heads * width,
        3 * heads * width,
        width**-0.5,
        D=width,
        QUERIES=queries,
        KEYS=keys,
        num_warps=warps,
        num_stages=stages,
    )
    return out


def _tile(longest: int, mean: int) -> tuple[int, int, int, int]:
    """Queries and keys of a block, warps, and stages of the pipeline, for sequences of these lengths."""
    if longest <= 32:
        return 32, 32, 1, 1
    if longest <= 64:
        return 64, 64, 4, 3
    return (64, 32, 4, 2) if mean < 128 else (128, 64, 4, 3)


def attend_once(q: Tensor, kv: Tensor, starts: Tensor) -> Tensor:
    """Attention with one query for each sequence: q [B, H, D], kv [T, 2, H, D] and starts [B+1] to [B, H*D]."""
    count, heads, width = q.shape
    out, each = q.new_empty(count, heads * width), torch.arange(count + 1, dtype=torch.int32, device=q.device)
    k, v = kv.unbind(1)
    _attend[(count, heads, 1)](
        q,
        k,
        v,
        out,
        each,
        starts,
        heads * width,
        2 * heads * width,
        width**-0.5,
        D=width,
        QUERIES=16,
        KEYS=64,
        num_warps=2,
        num_stages=2,
    )
    return out


@triton.jit
def _patches(
    pixels,
    scale,
    shift,
    out,
    size,
    patch,
    grid,
    values,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)  # a patch of an image
    image, place = program // (grid * grid), program % (grid * grid)
    top, left, index = (place // grid) * patch, (place % grid) * patch, tl.arange(0, BLOCK)
    channel, y, x, inside = index // (patch * patch), index // patch % patch, index % patch, index < values
    at = ((image.to(tl.int64) * size + top + y) * size + left + x) * 3 + channel
    raw = tl.load(pixels + at, mask=inside, other=0).to(tl.float32)
    factor, offset = tl.load(scale + channel, mask=inside, other=0), tl.load(shift + channel, mask=inside, other=0)
    tl.store(out + program.to(tl.int64) * values + index, raw * factor + offset, mask=inside)


def patches(pixels: Tensor, patch: int, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels uint8 [B, S, S, 3] to patches of p x p pixels, [B, N, 3*p*p] in `dtype`, in the order of `patchify`.

    Each value is multiplied by its channel's `scale`, and its `shift` is added; both are float32 [3].
    """
    batch, size = pixels.shape[:2]
    grid, values = size // patch, 3 * patch * patch
    out = torch.empty(batch, grid * grid, values, dtype=dtype, device=pixels.device)
    _patches[(batch * grid * grid,)](
        pixels, scale, shift, out, size, patch, grid, values, BLOCK=triton.next_power_of_2(values), num_warps=4
    )
    return out
