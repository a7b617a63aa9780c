"""Numbers that gateway/experiment/{binomial-tail,sample-ratio}.ts are held to: scipy's binomial and Dirichlet-multinomial.

    python3 -m venv V && V/bin/pip install scipy==1.17.1 && V/bin/python test/gateway/ratio-oracle.py
"""

import json
import pathlib
from importlib.metadata import version

import numpy as np
from scipy.stats import binom, dirichlet_multinomial, multinomial

ALPHA, SHARE, SURE, N, CONCENTRATION = 0.05, 0.8, 0.95, 5000, 500
rng = np.random.default_rng(20261125)


def bounds(w):
    half = SHARE * ALPHA * SURE / 2
    ks = np.arange(N + 2)
    high = int(ks[binom.sf(ks - 1, N, w) <= half][0])
    low = int(ks[binom.cdf(ks, N, w) <= half][-1]) if binom.cdf(0, N, w) <= half else -1
    return low, high


def outside(x, left, w):
    low, high = bounds(w)
    return binom.sf(high - x - 1, left, w) + binom.cdf(low - x, left, w)


def evidence(looks, weights):
    told = weights[:1] if len(weights) == 2 else weights
    after, found = 0.0, []
    for x in looks:
        n = int(x.sum())
        d = after
        if n <= N:
            d = float(np.mean([outside(x[i], N - n, w) / outside(0, N, w) for i, w in enumerate(told)]))
        if n == N:
            after = d
        alpha = CONCENTRATION * np.array(weights)
        bf = np.exp(dirichlet_multinomial.logpmf(x, alpha, n) - multinomial.logpmf(x, n, weights))
        found.append(float(SHARE * d + (1 - SHARE) * bf))
    return found


ratios = []
for weights, shares, size, days in [
    ([0.5, 0.5], [0.5, 0.5], 500, 14),
    ([0.5, 0.5], [0.52, 0.48], 500, 14),
    ([0.5, 0.5], [0.56, 0.44], 250, 8),
    # Nobody looks at 5,000 here.
    ([0.5, 0.5], [0.53, 0.47], 700, 10),
    ([0.1, 0.2, 0.7], [0.1, 0.2, 0.7], 1000, 8),
    ([0.1, 0.2, 0.7], [0.115, 0.2, 0.685], 1000, 8),
    ([0.999, 0.001], [0.997, 0.003], 1000, 6),
]:
    looks = rng.multinomial(size, shares, days).cumsum(axis=0)
    found = evidence(looks, weights)
    ratios.append({"weights": weights, "looks": looks.tolist(), "p": 1 / max(1.0, *found)})

tails = [
    [k, n, w, float(binom.sf(k - 1, n, w)), float(binom.cdf(k, n, w))]
    for k, n, w in [
        (0, 0, 0.5),
        (-3, 10, 0.3),
        (0, 10, 0.3),
        (3, 10, 0.3),
        (4, 10, 0.3),
        (10, 10, 0.3),
        (11, 10, 0.3),
        (2500, 5000, 0.5),
        (2571, 5000, 0.5),
        (2900, 5000, 0.5),
        (70, 4000, 0.5),
        (5, 5000, 0.001),
        (0, 5000, 0.001),
        (1, 5000, 0.0001),
        (4998, 5000, 0.999),
    ]
]
found = {"versions": {name: version(name) for name in ["scipy", "numpy"]}, "tails": tails, "ratios": ratios}
path = pathlib.Path(__file__).with_name("ratio-oracle.json")
path.write_text(json.dumps(found, indent=1) + "\n")
