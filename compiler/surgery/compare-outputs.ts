// How far the outputs of two graphs are apart, each output on its own scale.

export interface Output {
  readonly values: Float64Array
  readonly dims: readonly number[]
}
export type Outputs = ReadonlyMap<string, Output>

export interface Compared {
  readonly output: string
  readonly maxError: number
  readonly bound: number
  readonly magnitude: number
  readonly effect: number
  readonly ok: boolean
}

/** Over probes: the output that comes nearest to `room` of its own scale. `base`: without the adapter. */
export function compareOutputs(
  subject: readonly Outputs[],
  reference: readonly Outputs[],
  base: readonly Outputs[],
  room: number,
): Compared {
  const found = new Map<string, { error: number; magnitude: number; effect: number; own: number }>()
  for (const [at, outputs] of reference.entries()) {
    for (const [name, { values }] of outputs) {
      const tally = found.get(name) ?? { error: 0, magnitude: 0, effect: 0, own: 0 }
      const [own, before] = [subject[at]?.get(name)?.values, base[at]?.get(name)?.values]
      tally.error = Math.max(tally.error, furthest(own, values))
      tally.effect = Math.max(tally.effect, furthest(before, values))
      tally.own = Math.max(tally.own, furthest(before, own ?? values))
      tally.magnitude = Math.max(tally.magnitude, largest(values), largest(before ?? values))
      found.set(name, tally)
    }
  }
  const effect = Math.max(0, ...[...found.values()].map(({ own }) => own))
  const all = [...found].map(([output, tally]) => {
    const magnitude = tally.magnitude + (Number.isFinite(tally.effect) ? tally.effect : 0)
    return { output, maxError: tally.error, bound: room * magnitude, magnitude }
  })
  const share = ({ maxError, bound }: { maxError: number; bound: number }) =>
    maxError === 0 ? 0 : bound === 0 ? Number.POSITIVE_INFINITY : maxError / bound
  const worst = all.reduce((most, one) => (share(one) > share(most) ? one : most))
  return { ...worst, effect, ok: share(worst) <= 1 }
}

/** As `compareOutputs` where nothing may differ. */
export function exactly(subject: readonly Outputs[], reference: readonly Outputs[]): Compared {
  return compareOutputs(subject, reference, reference, 0)
}

/** Outputs that have a row a row of the batch. With `others`, all rows but the first are theirs. */
export function rowsOf(outputs: Outputs, batch: number, others?: Outputs): Outputs {
  const found = new Map<string, Output>()
  for (const [name, output] of outputs) {
    if (output.dims[0] !== batch) continue
    const theirs = others?.get(name)
    if (theirs === undefined) {
      found.set(name, output)
      continue
    }
    const values = theirs.values.slice()
    values.set(output.values.subarray(0, values.length / batch))
    found.set(name, { values, dims: output.dims })
  }
  return found
}

function furthest(a: Float64Array | undefined, b: Float64Array): number {
  if (a === undefined || a.length !== b.length) return Number.POSITIVE_INFINITY
  let most = 0
  for (let i = 0; i < a.length; i += 1) {
    const [left, right] = [a[i] as number, b[i] as number]
    if (left === right) continue
    const error = Math.abs(left - right)
    // NaN fails every comparison, so it is asked for by name; infinity is only near itself.
    if (!Number.isFinite(error)) return Number.POSITIVE_INFINITY
    most = Math.max(most, error)
  }
  return most
}

function largest(values: Float64Array): number {
  let most = 0
  for (const value of values) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value))
  return most
}
