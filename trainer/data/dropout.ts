// The noise of one run of the graph: 0 with probability p, else 1/(1 − p). Each module reads a window of it.
import { stream } from '../../compiler/combine/threefry.ts'
import type { Feeds } from '../../compiler/verify/session.ts'
import { trainingNames } from '../graph/names.ts'
import type { LoraSpec } from '../lora/spec.ts'

/** Room for windows to differ by: a prime, so that no window of another width falls into step. */
const ROOM = 65_537

/** `tokens`: of the batch, padding included. The numbers hang on the seed and the run's name alone. */
export function dropoutFeeds({ modules, dropout }: LoraSpec, tokens: number, seed: number, run: string): Feeds {
  if (dropout === 0) return {}
  const widest = Math.max(...modules.map(({ linear }) => linear.in)) * tokens
  const draw = stream(seed, `dropout/${run}`)(4 + modules.length)
  const noise = new Float32Array(widest + ROOM)
  const keep = 1 / (1 - dropout)
  // xorshift128 (Marsaglia, 2003), seeded by the stream: a counter a number would take ten times as long.
  let [a, b, c, d] = draw.subarray(0, 4).map((x) => Math.floor(x * 2 ** 32)) as unknown as [
    number,
    number,
    number,
    number,
  ]
  const edge = dropout * 2 ** 32
  a |= 1
  for (let i = 0; i < noise.length; i += 1) {
    const t = a ^ (a << 11)
    a = b
    b = c
    c = d
    d = d ^ (d >>> 19) ^ t ^ (t >>> 8)
    noise[i] = d >>> 0 < edge ? 0 : keep
  }
  const starts = BigInt64Array.from(modules, (_, at) => BigInt(Math.floor((draw[4 + at] as number) * ROOM)))
  return {
    [trainingNames.dropoutNoise]: { data: noise, dims: [noise.length] },
    [trainingNames.dropoutStarts]: { data: starts, dims: [modules.length] },
  }
}
