// P(X ≥ k) and P(X ≤ k) of X ~ Bin(n, w), 0 < w < 1: terms are added from k outwards, each from the one before it, since beyond
// the mode they fall faster than a geometric series.
//   P(X = k+1)/P(X = k) = (n−k)/(k+1) · w/(1−w)
import { logGamma } from './log-gamma.ts'

/** A term below this part of the sum adds nothing to a double. */
const NEGLIGIBLE = 1e-18

export function binomialAtLeast(k: number, n: number, w: number): number {
  if (k <= 0) return 1
  if (k > n) return 0
  // Below the mode the terms still grow: there the other tail is the short one.
  if (k <= n * w) return 1 - binomialAtMost(k - 1, n, w)
  const odds = w / (1 - w)
  let term = probability(k, n, w)
  let sum = term
  for (let at = k; at < n && term > NEGLIGIBLE * sum; at++) {
    term *= ((n - at) / (at + 1)) * odds
    sum += term
  }
  return sum
}

/** Those who are not in the one arm are in the other. */
export function binomialAtMost(k: number, n: number, w: number): number {
  if (k < 0) return 0
  if (k >= n) return 1
  if (k >= n * w) return 1 - binomialAtLeast(k + 1, n, w)
  return binomialAtLeast(n - k, n, 1 - w)
}

function probability(k: number, n: number, w: number): number {
  const ways = logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1)
  return Math.exp(ways + k * Math.log(w) + (n - k) * Math.log1p(-w))
}
