// Householder QR of a tall matrix held as columns, the form in which the inner loops run over contiguous memory.

/** M = Q·R with M [m, n], Q [m, k], R [k, n] and k = min(m, n). */
export interface ThinQr {
  readonly k: number
  /** R, row-major [k, n]. */
  readonly R: Float64Array
  /** Q·x for x of length k; the result has length m. */
  applyQ(x: Float64Array): Float64Array<ArrayBuffer>
}

/**
 * `columns`: n arrays of length m; they are overwritten.
 *
 * Reflectors H = I − τ·v·vᵀ with v₀ = 1, in place below the diagonal (Golub and Van Loan, Matrix Computations, 5.1 and
 * 5.2): backward stable, so a rank-deficient stack of factors needs no special case.
 */
export function thinQr(columns: readonly Float64Array[], m: number): ThinQr {
  const n = columns.length
  const k = Math.min(m, n)
  const taus = new Float64Array(k)
  // Left-looking: the column at hand stays in the nearest cache while the reflectors pass by.
  columns.forEach((column, place) => {
    const before = Math.min(place, k)
    for (let j = 0; j < before; j += 1) reflect(column, columns[j] as Float64Array, taus[j] as number, j)
    if (place < k) taus[place] = makeReflector(column, place)
  })
  const R = new Float64Array(k * n)
  for (let i = 0; i < k; i += 1) {
    for (let j = i; j < n; j += 1) R[i * n + j] = (columns[j] as Float64Array)[i] as number
  }
  return {
    k,
    R,
    applyQ(x) {
      const result = new Float64Array(m)
      result.set(x)
      for (let j = k - 1; j >= 0; j -= 1) reflect(result, columns[j] as Float64Array, taus[j] as number, j)
      return result
    },
  }
}

/** Turns x[j…] into β·e₁; afterwards x[j] is β, what follows is v without its leading 1, and τ is returned. */
function makeReflector(x: Float64Array, j: number): number {
  let tail = 0
  for (let i = j + 1; i < x.length; i += 1) tail += (x[i] as number) * (x[i] as number)
  const alpha = x[j] as number
  if (tail === 0) return 0
  const norm = Math.sqrt(alpha * alpha + tail)
  const beta = alpha > 0 ? -norm : norm
  for (let i = j + 1; i < x.length; i += 1) x[i] = (x[i] as number) / (alpha - beta)
  x[j] = beta
  return (beta - alpha) / beta
}

/** y ← (I − τ·v·vᵀ)·y on the entries from j on, where v is x[j…] with its first entry read as 1. */
function reflect(y: Float64Array, v: Float64Array, tau: number, j: number): void {
  if (tau === 0) return
  const m = y.length
  // Four sums, because one would wait for its own last addition at every step.
  let dot = y[j] as number
  let dot1 = 0
  let dot2 = 0
  let dot3 = 0
  let i = j + 1
  for (; i + 3 < m; i += 4) {
    dot += (v[i] as number) * (y[i] as number)
    dot1 += (v[i + 1] as number) * (y[i + 1] as number)
    dot2 += (v[i + 2] as number) * (y[i + 2] as number)
    dot3 += (v[i + 3] as number) * (y[i + 3] as number)
  }
  for (; i < m; i += 1) dot += (v[i] as number) * (y[i] as number)
  const step = tau * (dot + dot1 + (dot2 + dot3))
  y[j] = (y[j] as number) - step
  for (i = j + 1; i < m; i += 1) y[i] = (y[i] as number) - step * (v[i] as number)
}
