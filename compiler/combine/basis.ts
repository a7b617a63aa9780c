// An orthonormal basis that grows.

/** A vector of which less than this share is new is numerically in the span already. */
const DEPENDENT = 1e-13

export class Basis {
  readonly #vectors: Float64Array[] = []
  readonly #length: number

  constructor(length: number) {
    this.#length = length
  }

  get size(): number {
    return this.#vectors.length
  }

  /**
   * Adds what is new in each vector, which is overwritten: Gram–Schmidt, twice, which is orthogonal to rounding
   * ("twice is enough", Parlett, The Symmetric Eigenvalue Problem, 6.9). `coefficients[i]` are those of vector i over
   * the basis as it stands after that vector.
   */
  extend(vectors: readonly Float64Array[]): { added: Float64Array[]; coefficients: Float64Array[] } {
    const added: Float64Array[] = []
    const largest = Math.max(0, ...vectors.map(norm))
    const coefficients = vectors.map((vector) => {
      const along = new Float64Array(this.size + 1)
      for (let pass = 0; pass < 2; pass += 1) this.#project(vector, along)
      const rest = norm(vector)
      if (rest <= DEPENDENT * largest || this.size === this.#length) return along.subarray(0, this.size)
      along[this.size] = rest
      for (let i = 0; i < vector.length; i += 1) vector[i] = (vector[i] as number) / rest
      this.#vectors.push(vector)
      added.push(vector)
      return along
    })
    return { added, coefficients }
  }

  /** Σ xᵢ·vᵢ; `x` may be longer than the basis when the rest is zero, and shorter. */
  combine(x: Float64Array): Float64Array {
    const result = new Float64Array(this.#length)
    for (let i = 0; i < Math.min(x.length, this.size); i += 1)
      addScaled(result, this.#vectors[i] as Float64Array, x[i] as number)
    return result
  }

  #project(vector: Float64Array, along: Float64Array): void {
    this.#vectors.forEach((basis, i) => {
      let dot = 0
      for (let k = 0; k < vector.length; k += 1) dot += (basis[k] as number) * (vector[k] as number)
      addScaled(vector, basis, -dot)
      along[i] = (along[i] as number) + dot
    })
  }
}

function addScaled(to: Float64Array, vector: Float64Array, factor: number): void {
  for (let k = 0; k < to.length; k += 1) to[k] = (to[k] as number) + factor * (vector[k] as number)
}

function norm(vector: Float64Array): number {
  let sum = 0
  for (let k = 0; k < vector.length; k += 1) sum += (vector[k] as number) * (vector[k] as number)
  return Math.sqrt(sum)
}
