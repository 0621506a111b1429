"""The slow oracle: every operation by its definition, in loops over indices, on nested lists of Python floats.

It shares nothing with the package, not even NumPy, and says each thing another way where there is one: convolution as
what each input pixel gives, softmax without taking off the maximum, interpolation as a sum over all samples. Sums are
exact (``math.fsum``), so an answer is right to a few roundings. No taps: these have tests of their own.
"""

import math
from itertools import product


def zeros(n, *shape):
    return [zeros(*shape) for _ in range(n)] if shape else [0.0] * n


def shape(x):
    return (len(x), *shape(x[0])) if isinstance(x, list) else ()


def each(f, x):
    """f of every number in nested lists."""
    return [each(f, y) for y in x] if isinstance(x, list) else f(x)


def add(x, y):
    return [add(a, b) for a, b in zip(x, y, strict=True)] if isinstance(x, list) else x + y


def rows(f, x):
    """f of every innermost list."""
    return [rows(f, y) for y in x] if isinstance(x[0], list) else f(x)


# ------------------------------------------------------------------------------------- from the image to tokens


def conv2d(x, weight, bias=None, stride=1, padding=0):
    B, Cin, H, W = shape(x)
    Cout, _, kh, kw = shape(weight)
    h, w = (H + 2 * padding - kh) // stride + 1, (W + 2 * padding - kw) // stride + 1
    terms = [
        [[[[bias[o] if bias else 0.0] for _ in range(w)] for _ in range(h)] for o in range(Cout)] for _ in range(B)
    ]
    for n, c, ii, jj, a, b in product(*map(range, (B, Cin, H, W, kh, kw))):  # input (ii, jj) under tap (a, b)
        i, a_off = divmod(ii + padding - a, stride)
        j, b_off = divmod(jj + padding - b, stride)
        if a_off == b_off == 0 and 0 <= i < h and 0 <= j < w:
            for o in range(Cout):
                terms[n][o][i][j].append(x[n][c][ii][jj] * weight[o][c][a][b])
    return rows(math.fsum, terms)


def patch_embed(images, weight, bias=None, stride=None, padding=None, ratio=1):
    defaults = {1: (16, 2), 2: (8, 4), 4: (4, 6)}[ratio]
    size = len(weight[0][0])
    stride = defaults[0] * size // 16 if stride is None else stride
    return conv2d(images, weight, bias, stride, defaults[1] if padding is None else padding)


def to_tokens(x):
    B, C, Hp, Wp = shape(x)
    y = zeros(B, Hp * Wp, C)
    for b, c, i, j in product(*map(range, (B, C, Hp, Wp))):
        y[b][i * Wp + j][c] = x[b][c][i][j]
    return y


def add_positions(x, pos_embed):
    B, N, C = shape(x)
    table = pos_embed[0]
    return [[[x[b][n][c] + table[n + 1][c] + table[0][c] for c in range(C)] for n in range(N)] for b in range(B)]


def cubic(t):
    """Keys' kernel with a = -3/4, its two pieces multiplied out."""
    t = abs(t)
    if t <= 1:
        return 1.25 * t**3 - 2.25 * t**2 + 1
    return -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3 if t < 2 else 0.0


def bicubic_weights(n, m):
    y = zeros(m, n)
    for i in range(m):
        centre = (2 * i + 1) * n / (2 * m) - 0.5
        for j in range(-4, n + 4):  # samples outside the map repeat its edge
            y[i][min(max(j, 0), n - 1)] += cubic(centre - j)
    return y


def resize_positions(pos_embed, old_grid, new_grid):
    (H, W), (h, w), C = old_grid, new_grid, len(pos_embed[0][0])
    down, along = bicubic_weights(H, h), bicubic_weights(W, w)
    y = [pos_embed[0][0]]
    for i, j in product(range(h), range(w)):
        near = list(product(range(H), range(W)))
        y.append(
            [math.fsum(down[i][a] * along[j][b] * pos_embed[0][1 + a * W + b][c] for a, b in near) for c in range(C)]
        )
    return [y]


# ------------------------------------------------------------------------------------------------ a transformer block


def linear(x, weight, bias=None):
    def one(row):
        return [
            math.fsum([bias[o] if bias else 0.0, *(row[k] * weight[o][k] for k in range(len(row)))])
            for o in range(len(weight))
        ]

    return rows(one, x)


def layer_norm(x, weight, bias, eps=1e-6):
    def one(row):
        C = len(row)
        mean = math.fsum(row) / C
        variance = math.fsum((v - mean) ** 2 for v in row) / C
        return [(row[c] - mean) / math.sqrt(variance + eps) * weight[c] + bias[c] for c in range(C)]

    return rows(one, x)


def exp(x):
    return math.exp(x) if x < 700 else math.inf


def softmax(x):
    return rows(lambda row: [1 / math.fsum(exp(other - v) for other in row) for v in row], x)


def scaled_dot_product_attention(q, k, v, qk_scale=None):
    B, h, N, d = shape(q)
    M, e = shape(v)[2:]
    scale = 1 / math.sqrt(d) if qk_scale is None else qk_scale
    y = zeros(B, h, N, e)
    for b, g, i in product(range(B), range(h), range(N)):
        scores = [math.fsum(q[b][g][i][c] * k[b][g][j][c] for c in range(d)) * scale for j in range(M)]
        pattern = softmax(scores)
        for c in range(e):
            y[b][g][i][c] = math.fsum(pattern[j] * v[b][g][j][c] for j in range(M))
    return y


def split_heads(x, num_heads):
    B, N, columns = shape(x)
    d = columns // (3 * num_heads)
    y = zeros(3, B, num_heads, N, d)
    for b, n, column in product(range(B), range(N), range(columns)):
        which, rest = divmod(column, num_heads * d)
        head, c = divmod(rest, d)
        y[which][b][head][n][c] = x[b][n][column]
    return y


def merge_heads(x):
    B, h, N, d = shape(x)
    y = zeros(B, N, h * d)
    for b, head, n, c in product(*map(range, (B, h, N, d))):
        y[b][n][head * d + c] = x[b][head][n][c]
    return y


def attention(x, qkv, proj, num_heads, qk_scale=None):
    q, k, v = split_heads(linear(x, **qkv), num_heads)
    return linear(merge_heads(scaled_dot_product_attention(q, k, v, qk_scale)), **proj)


def erf(x):
    """By the series of positive terms 2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (1 3 5 ... (2n+1))."""

    def one(t):
        if abs(t) > 6.5:
            return math.copysign(1.0, t)
        terms = [t]
        while abs(terms[-1]) > 1e-20 * abs(t):
            terms.append(terms[-1] * 2 * t * t / (2 * len(terms) + 1))
        return 2 / math.sqrt(math.pi) * math.exp(-t * t) * math.fsum(terms)

    return each(one, x)


def gelu(x):
    return each(lambda t: t * math.erfc(-t / math.sqrt(2)) / 2, x)


def mlp(x, fc1, fc2):
    return linear(gelu(linear(x, **fc1)), **fc2)


def block(x, p, num_heads, qk_scale=None, eps=1e-6):
    x = add(x, attention(layer_norm(x, **p["norm1"], eps=eps), **p["attn"], num_heads=num_heads, qk_scale=qk_scale))
    return add(x, mlp(layer_norm(x, **p["norm2"], eps=eps), **p["mlp"]))


# ------------------------------------------------------------------------------------- from tokens to heatmaps


def to_map(x, grid):
    B, _, C = shape(x)
    Hp, Wp = grid
    y = zeros(B, C, Hp, Wp)
    for b, c, i, j in product(*map(range, (B, C, Hp, Wp))):
        y[b][c][i][j] = x[b][i * Wp + j][c]
    return y


def conv_transpose2d(x, weight, bias=None, stride=2, padding=0, output_padding=0):
    B, Cin, H, W = shape(x)
    _, Cout, kh, kw = shape(weight)
    h = (H - 1) * stride - 2 * padding + (kh - 1) + output_padding + 1
    w = (W - 1) * stride - 2 * padding + (kw - 1) + output_padding + 1
    terms = [
        [[[[bias[o] if bias else 0.0] for _ in range(w)] for _ in range(h)] for o in range(Cout)] for _ in range(B)
    ]
    for n, c, o, ii, jj, a, b in product(*map(range, (B, Cin, Cout, H, W, kh, kw))):
        i, j = ii * stride + a - padding, jj * stride + b - padding
        if 0 <= i < h and 0 <= j < w:
            terms[n][o][i][j].append(x[n][c][ii][jj] * weight[c][o][a][b])
    return rows(math.fsum, terms)


def batch_norm(x, weight, bias, running_mean, running_var, num_batches_tracked=None, eps=1e-5):
    B, C, H, W = shape(x)
    y = zeros(B, C, H, W)
    for n, c, i, j in product(*map(range, (B, C, H, W))):
        y[n][c][i][j] = weight[c] * (x[n][c][i][j] - running_mean[c]) / math.sqrt(running_var[c] + eps) + bias[c]
    return y


def relu(x):
    return each(lambda t: t if t > 0 else 0.0, x)


def bilinear_weights(n, m):
    """Each input sample carries a hat of width 2; the samples at the edge are flat outwards."""
    y = zeros(m, n)
    for i, j in product(range(m), range(n)):
        centre = min(max((2 * i + 1) * n / (2 * m) - 0.5, 0), n - 1)
        y[i][j] = max(0.0, 1 - abs(centre - j))
    return y


def upsample_bilinear(x, scale=4):
    B, C, H, W = shape(x)
    down, along = bilinear_weights(H, scale * H), bilinear_weights(W, scale * W)
    y = zeros(B, C, scale * H, scale * W)
    for n, c, i, j in product(*map(range, (B, C, scale * H, scale * W))):
        near = product(range(H), range(W))
        y[n][c][i][j] = math.fsum(down[i][a] * along[j][b] * x[n][c][a][b] for a, b in near)
    return y


def deconv(x, weight, bias=None):
    padding = {2: 0, 3: 1, 4: 1}[len(weight[0][0])]
    return conv_transpose2d(x, weight, bias, 2, padding, 1 if len(weight[0][0]) == 3 else 0)


def same_conv(x, weight, bias=None):
    return conv2d(x, weight, bias, 1, {1: 0, 3: 1, 5: 2}[len(weight[0][0])])


def sequential(x, layers, convolve):
    for name in sorted(layers, key=int):
        p = layers[name]
        x = convolve(x, **p) if "running_var" not in p else relu(batch_norm(x, **p))
    return x


def keypoint_head(x, final_layer, deconv_layers=None):
    x = sequential(x, deconv_layers, deconv) if deconv_layers else upsample_bilinear(relu(x), 4)
    return same_conv(x, **final_layer) if "weight" in final_layer else sequential(x, final_layer, same_conv)
