// Which examples each step sees. Everything hangs on the seed and the number of the row alone, so that a run that is taken
// up again sees what it would have seen.
import { stream } from '../../compiler/combine/threefry.ts'
import type { Example, Row } from './example.ts'

/** Rows that are still open while examples are packed: enough to fill gaps, few enough to search. */
const OPEN_ROWS = 32

export interface OrderOptions {
  readonly seed: number
  readonly shuffle: boolean
  /** Tokens of a row that several examples share; `undefined`: a row an example. */
  readonly packTokens: number | undefined
}

/** Rows without end: epoch after epoch, each in an order of its own. `skip`: rows that were seen already. */
export function* rowsInOrder(examples: readonly Example[], options: OrderOptions, skip = 0): Generator<Row> {
  let left = skip
  for (let epoch = 0; ; epoch += 1) {
    const rows = rowsOfEpoch(examples, options, epoch)
    if (left >= rows.length) {
      left -= rows.length
      continue
    }
    yield* rows.slice(left)
    left = 0
  }
}

export function rowsOfEpoch(
  examples: readonly Example[],
  { seed, shuffle, packTokens }: OrderOptions,
  epoch: number,
): Row[] {
  const order = shuffle ? permutation(examples.length, seed, epoch) : examples.keys()
  const sorted = Array.from(order, (at) => examples[at] as Example)
  return packTokens === undefined ? sorted.map((example) => [example]) : pack(sorted, packTokens)
}

/** Fisher and Yates. */
function permutation(count: number, seed: number, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, at) => at)
  const numbers = stream(seed, `order/${epoch}`)(count)
  for (let i = count - 1; i > 0; i -= 1) {
    const j = Math.floor((numbers[i] as number) * (i + 1))
    const kept = order[i] as number
    order[i] = order[j] as number
    order[j] = kept
  }
  return order
}

/** First fit, in order. A row comes out when it is the oldest of those that are open. */
function pack(examples: readonly Example[], tokens: number): Row[] {
  const rows: { examples: Example[]; left: number }[] = []
  let first = 0
  for (const example of examples) {
    const length = example.ids.length - 1
    const open = rows.slice(first).find(({ left }) => left >= length)
    if (open === undefined) {
      rows.push({ examples: [example], left: tokens - length })
      first = Math.max(first, rows.length - OPEN_ROWS)
    } else {
      open.examples.push(example)
      open.left -= length
    }
  }
  return rows.map((row) => row.examples)
}

/** Which examples are held out: a share, drawn once. */
export function holdOut(
  examples: readonly Example[],
  share: number,
  seed: number,
): { train: Example[]; held: Example[] } {
  const count = Math.min(examples.length - 1, Math.round(share * examples.length))
  const chosen = new Set(permutation(examples.length, seed, -1).slice(0, count))
  return {
    train: examples.filter((_, at) => !chosen.has(at)),
    held: examples.filter((_, at) => chosen.has(at)),
  }
}
