// Householder QR of a tall matrix held as columns, with four reflectors at a time: what is loaded is then used often.

/** M = Q·R with M [m, n], Q [m, k], R [k, n] and k = min(m, n). */
export interface ThinQr {
  readonly k: number
  /** R, row-major [k, n]. */
  readonly R: Float64Array
  /** Q·x for x of length k; the result has length m. */
  applyQ(x: Float64Array): Float64Array<ArrayBuffer>
}

/** Four reflectors as one: H₀·H₁·H₂·H₃ = I − V·T·Vᵀ with V [m, 4] and T upper triangular. */
interface Panel {
  /** V is zero above this row. */
  readonly start: number
  readonly V: readonly [Float64Array, Float64Array, Float64Array, Float64Array]
  /** Row-major [4, 4]. */
  readonly T: Float64Array
}

const WIDTH = 4
type Four = [number, number, number, number]

/**
 * `columns`: n arrays of length m; they are overwritten.
 *
 * Reflectors H = I − τ·v·vᵀ with vⱼ = 1, joined four by four in the compact WY form (Golub and Van Loan, Matrix
 * Computations, 5.1 and 5.2; Schreiber and Van Loan, 1989): backward stable, so a rank-deficient stack of factors needs
 * no special case.
 */
export function thinQr(columns: readonly Float64Array[], m: number): ThinQr {
  const n = columns.length
  const k = Math.min(m, n)
  const panels: Panel[] = []
  for (let start = 0; start < n; start += WIDTH) {
    const group = columns.slice(start, start + WIDTH)
    for (let at = 0; at < group.length; at += 2) {
      const [left, right] = [group[at] as Float64Array, group[at + 1]]
      for (const panel of panels) {
        if (right === undefined) apply(panel, left, 'transposed')
        else applyToTwo(panel, left, right)
      }
    }
    if (start < k) panels.push(factor(group.slice(0, k - start), start, group, m))
  }
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
      for (const panel of panels.toReversed()) apply(panel, result, 'plain')
      return result
    },
  }
}

/** The reflectors of at most four columns, from row `start` on; applied to `group`, which may have more columns. */
function factor(columns: readonly Float64Array[], start: number, group: readonly Float64Array[], m: number): Panel {
  const V: Panel['V'] = [new Float64Array(m), new Float64Array(m), new Float64Array(m), new Float64Array(m)]
  const T = new Float64Array(WIDTH * WIDTH)
  columns.forEach((column, place) => {
    const v = V[place] as Float64Array
    const tau = makeReflector(column, start + place, v)
    for (const other of group.slice(place + 1)) reflect(other, v, tau, start + place)
    // Column `place` of T is −τ·T·(Vᵀ·v) above the diagonal and τ on it.
    const products = V.slice(0, place).map((before) => dot(before, v, start + place))
    for (let i = 0; i < place; i += 1) {
      let sum = 0
      for (let l = i; l < place; l += 1) sum += (T[i * WIDTH + l] as number) * (products[l] as number)
      T[i * WIDTH + place] = -tau * sum
    }
    T[place * WIDTH + place] = tau
  })
  return { start, V, T }
}

/** Turns x[j…] into β·e₁ and writes v, which is 1 at j; returns τ. */
function makeReflector(x: Float64Array, j: number, v: Float64Array): number {
  v[j] = 1
  const tail = dot(x, x, j + 1)
  if (tail === 0) return 0
  const alpha = x[j] as number
  const norm = Math.sqrt(alpha * alpha + tail)
  const beta = alpha > 0 ? -norm : norm
  for (let i = j + 1; i < x.length; i += 1) v[i] = (x[i] as number) / (alpha - beta)
  x.fill(0, j + 1)
  x[j] = beta
  return (beta - alpha) / beta
}

function reflect(y: Float64Array, v: Float64Array, tau: number, from: number): void {
  const step = tau * dot(v, y, from)
  for (let i = from; i < y.length; i += 1) y[i] = (y[i] as number) - step * (v[i] as number)
}

function dot(x: Float64Array, y: Float64Array, from: number): number {
  let sum = 0
  for (let i = from; i < x.length; i += 1) sum += (x[i] as number) * (y[i] as number)
  return sum
}

/** y ← (I − V·T·Vᵀ)·y, or with Tᵀ. */
function apply({ start, V: [v0, v1, v2, v3], T }: Panel, y: Float64Array, form: 'plain' | 'transposed'): void {
  const m = y.length
  let w0 = 0
  let w1 = 0
  let w2 = 0
  let w3 = 0
  for (let i = start; i < m; i += 1) {
    const value = y[i] as number
    w0 += (v0[i] as number) * value
    w1 += (v1[i] as number) * value
    w2 += (v2[i] as number) * value
    w3 += (v3[i] as number) * value
  }
  const [z0, z1, z2, z3] = timesT(T, [w0, w1, w2, w3], form)
  for (let i = start; i < m; i += 1) {
    const change = z0 * (v0[i] as number) + z1 * (v1[i] as number) + (z2 * (v2[i] as number) + z3 * (v3[i] as number))
    y[i] = (y[i] as number) - change
  }
}

/** `apply` of Tᵀ to two columns, by the same sums: V is loaded once for both. */
function applyToTwo({ start, V: [v0, v1, v2, v3], T }: Panel, x: Float64Array, y: Float64Array): void {
  const m = x.length
  let p0 = 0
  let p1 = 0
  let p2 = 0
  let p3 = 0
  let q0 = 0
  let q1 = 0
  let q2 = 0
  let q3 = 0
  for (let i = start; i < m; i += 1) {
    const a = x[i] as number
    const b = y[i] as number
    const r0 = v0[i] as number
    const r1 = v1[i] as number
    const r2 = v2[i] as number
    const r3 = v3[i] as number
    p0 += r0 * a
    p1 += r1 * a
    p2 += r2 * a
    p3 += r3 * a
    q0 += r0 * b
    q1 += r1 * b
    q2 += r2 * b
    q3 += r3 * b
  }
  const [s0, s1, s2, s3] = timesT(T, [p0, p1, p2, p3], 'transposed')
  const [t0, t1, t2, t3] = timesT(T, [q0, q1, q2, q3], 'transposed')
  for (let i = start; i < m; i += 1) {
    const r0 = v0[i] as number
    const r1 = v1[i] as number
    const r2 = v2[i] as number
    const r3 = v3[i] as number
    x[i] = (x[i] as number) - (s0 * r0 + s1 * r1 + (s2 * r2 + s3 * r3))
    y[i] = (y[i] as number) - (t0 * r0 + t1 * r1 + (t2 * r2 + t3 * r3))
  }
}

/** T·w, or Tᵀ·w. */
function timesT(T: Float64Array, w: Four, form: 'plain' | 'transposed'): Four {
  const z: Four = [0, 0, 0, 0]
  for (let i = 0; i < WIDTH; i += 1) {
    for (let j = 0; j < WIDTH; j += 1) {
      z[i] = (z[i] as number) + (T[form === 'plain' ? i * WIDTH + j : j * WIDTH + i] as number) * (w[j] as number)
    }
  }
  return z
}
