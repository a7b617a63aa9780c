# GPTQ as the paper states it (arXiv:2210.17323, algorithm 1), in numpy's float64: inverse of the damped Hessian, its upper
# Cholesky factor, columns one by one, a scale a group when the group is reached. The grids are those of docs/bases.md.
# Writes gptq-oracle.json beside it: `python gptq-oracle.py`.
import json
import os

import numpy as np

rng = np.random.default_rng(20261124)


def grid_of(block, grid, bits):
    lo, hi, top, middle = block.min(), block.max(), 2**bits - 1, 2 ** (bits - 1)
    if grid == "symmetric":
        m = hi if hi > -lo else lo
        return np.float64(np.float16(m / -middle)), middle, 0.0
    if grid == "asymmetric":
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        size = (hi - lo) / top
        zero = min(top, max(0, int(np.floor(-lo / size + 0.5))))
        return np.float64(np.float16(size)), zero, 0.0
    size = np.float64(np.float16((hi - lo) / top))
    return size, middle, np.float64(np.float16(lo + middle * size))


def gptq(W, X, block, grid, bits):
    n = W.shape[1]
    H = X.T @ X
    H[np.diag_indices(n)] += 0.01 * np.mean(np.diag(H))
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    W = W.copy()
    codes = np.zeros(W.shape, dtype=int)
    kept = np.zeros_like(W)
    for r in range(W.shape[0]):
        for i in range(n):
            if i % block == 0:
                scale, zero, offset = grid_of(np.float32(W[r, i : i + block]).astype(np.float64), grid, bits)
            q = int(np.clip(np.floor((W[r, i] - offset) / scale + zero + 0.5), 0, 2**bits - 1))
            codes[r, i] = q
            kept[r, i] = (q - zero) * scale + offset
            W[r, i + 1 :] -= (W[r, i] - kept[r, i]) / U[i, i] * U[i, i + 1 :]
    return codes, kept, U


cases = []
for grid, bits, block, n, out, tokens in [
    ("symmetric", 4, 16, 48, 5, 90),
    ("affine", 4, 32, 64, 3, 200),
    ("asymmetric", 4, 16, 32, 4, 20),
    ("symmetric", 8, 32, 64, 3, 100),
]:
    X = (rng.standard_normal((tokens, n)) @ (rng.standard_normal((n, n)) / np.sqrt(n))).round(3)
    W = (rng.standard_normal((out, n)) * 0.1).round(4).astype(np.float32).astype(np.float64)
    codes, kept, U = gptq(W, X, block, grid, bits)
    plain = np.array([[0.0] * n] * out)
    for r in range(out):
        for i in range(0, n, block):
            scale, zero, offset = grid_of(W[r, i : i + block], grid, bits)
            q = np.clip(np.floor((W[r, i : i + block] - offset) / scale + zero + 0.5), 0, 2**bits - 1)
            plain[r, i : i + block] = (q - zero) * scale + offset
    loss = lambda V: float(np.sum(((W - V) @ X.T) ** 2))
    cases.append(
        {
            "grid": grid,
            "bits": bits,
            "block": block,
            "shape": [out, n],
            "W": W.flatten().tolist(),
            "H": (X.T @ X).flatten().tolist(),
            "diagonal": np.diag(U).tolist(),
            "codes": codes.flatten().tolist(),
            "lossOfPlain": loss(plain),
            "lossOfGptq": loss(kept),
        }
    )

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "gptq-oracle.json"), "w") as file:
    json.dump({"versions": {"numpy": np.__version__}, "cases": cases}, file)
