"""Numbers that gateway/experiment/ is held to: gbstats for comparisons, scipy for sample ratios and log-gamma.

    python3 -m venv V && V/bin/pip install gbstats==0.8.0 scipy==1.17.1 && V/bin/python test/gateway/statistics-oracle.py
"""

import json
import pathlib
from importlib.metadata import version

import numpy as np
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import RatioStatistic, SampleMeanStatistic
from scipy.special import gammaln
from scipy.stats import dirichlet_multinomial, multinomial

rng = np.random.default_rng(20261124)


def subjects(size, effect, kind):
    """Sums and numbers of observations by subject: most have a few requests, some have hundreds."""
    counts = 1 + rng.negative_binomial(1, 0.2, size)
    own = rng.normal(0, 0.3, size)
    if kind == "rate":
        sums = rng.binomial(counts, np.clip(0.1 + effect + 0.1 * own, 0, 1))
    else:
        sums = np.array([rng.lognormal(5 + effect + o, 0.5, c).sum() for o, c in zip(own, counts)])
    return sums.astype(float), counts.astype(float)


def sums_of(sums, counts):
    return {
        "subjects": len(sums),
        "s": float(sums.sum()),
        "n": float(counts.sum()),
        "ss": float((sums**2).sum()),
        "sn": float((sums * counts).sum()),
        "nn": float((counts**2).sum()),
    }


def ratio(of):
    return RatioStatistic(
        n=of["subjects"],
        m_statistic=SampleMeanStatistic(n=of["subjects"], sum=of["s"], sum_squares=of["ss"]),
        d_statistic=SampleMeanStatistic(n=of["subjects"], sum=of["n"], sum_squares=of["nn"]),
        m_d_sum_of_products=of["sn"],
    )


comparisons = []
for size_a, size_b, effect, kind in [
    (50, 50, 0, "time"),
    (60, 211, 0.2, "time"),
    (1000, 1013, 0.05, "time"),
    (4001, 3999, -0.02, "time"),
    (20000, 5000, 0.03, "time"),
    (50, 97, 0, "rate"),
    (911, 889, 0.06, "rate"),
    (10007, 9973, 0.005, "rate"),
]:
    control, arm = sums_of(*subjects(size_a, 0, kind)), sums_of(*subjects(size_b, effect, kind))
    a, b = ratio(control), ratio(arm)
    row = {"control": control, "arm": arm, "kind": kind, "variance": [a.variance / a.n, b.variance / b.n], "at": []}
    for alpha in [0.05, 0.01]:
        test = SequentialTwoSidedTTest(a, b, SequentialConfig(alpha=alpha, difference_type="absolute"))
        row["at"].append(
            {
                "alpha": alpha,
                "difference": float(test.point_estimate),
                "interval": [float(x) for x in test.confidence_interval],
                "p": float(test.p_value),
            }
        )
    comparisons.append(row)

ratios = []
for weights, shares, days, concentration in [
    ([0.5, 0.5], [0.5, 0.5], 10, 10000),
    ([0.5, 0.5], [0.52, 0.48], 20, 10000),
    ([0.5, 0.5], [0.52, 0.48], 20, 1500),
    ([0.1, 0.2, 0.7], [0.1, 0.2, 0.7], 15, 1500),
    ([0.1, 0.2, 0.7], [0.12, 0.2, 0.68], 15, 1500),
]:
    daily = rng.multinomial(1000, shares, days)
    looks = daily.cumsum(axis=0)
    alpha = concentration * np.array(weights)
    logs = [
        float(dirichlet_multinomial.logpmf(x, alpha, x.sum()) - multinomial.logpmf(x, x.sum(), weights)) for x in looks
    ]
    ratios.append(
        {
            "weights": weights,
            "concentration": concentration,
            "looks": looks.tolist(),
            "logBayesFactors": logs,
            "p": float(np.exp(-max(0.0, max(logs)))),
        }
    )

points = [1e-6, 0.1, 0.5, 1, 1.5, 2, 3.7, 14.9, 15, 15.1, 100, 2500.5, 1e6, 3.3e9]
found = {
    "versions": {name: version(name) for name in ["gbstats", "scipy", "numpy"]},
    "comparisons": comparisons,
    "ratios": ratios,
    "logGamma": [[x, float(gammaln(x))] for x in points],
}
path = pathlib.Path(__file__).with_name("statistics-oracle.json")
path.write_text(json.dumps(found, indent=1) + "\n")
