// Rows of examples → the feeds of a training graph.
import { graphNames } from '../../compiler/contract.ts'
import type { Feeds, FeedTensor } from '../../compiler/verify/session.ts'
import { trainingNames } from '../graph/names.ts'
import { countTargets, type Row } from './example.ts'

export interface Batch {
  readonly feeds: Feeds
  readonly targets: number
  /** Tokens of the rows, padding not counted. */
  readonly tokens: number
}

/** `scale`: what each target counts in the loss; 1/n makes it the mean over n targets. `pieces`: of the graph. */
export function makeBatch(rows: readonly Row[], scale: number, pieces: number): Batch {
  // The last token of a text predicts nothing, so the model need not see it.
  const lengths = rows.map((row) => row.reduce((sum, { ids }) => sum + ids.length - 1, 0))
  const width = Math.max(...lengths)
  const [ids, positions, segments] = [0, 1, 2].map(() => new BigInt64Array(rows.length * width)) as [
    BigInt64Array,
    BigInt64Array,
    BigInt64Array,
  ]
  const found = rows.reduce((sum, row) => sum + countTargets(row), 0)
  const count = Math.max(1, Math.ceil(found / pieces)) * pieces
  const places = new BigInt64Array(2 * count)
  const targets = new BigInt64Array(count)
  const weights = new Float32Array(count)
  let target = 0
  rows.forEach((row, r) => {
    let at = 0
    row.forEach((example, segment) => {
      for (let i = 0; i + 1 < example.ids.length; i += 1, at += 1) {
        const place = r * width + at
        ids[place] = BigInt(example.ids[i] as number)
        positions[place] = BigInt(i)
        segments[place] = BigInt(segment + 1)
        if (!example.isTarget[i + 1]) continue
        places[2 * target] = BigInt(r)
        places[2 * target + 1] = BigInt(at)
        targets[target] = BigInt(example.ids[i + 1] as number)
        weights[target] = scale
        target += 1
      }
    })
  })
  const grid = (data: BigInt64Array): FeedTensor => ({ data, dims: [rows.length, width] })
  return {
    feeds: {
      [graphNames.inputIds]: grid(ids),
      [graphNames.positionIds]: grid(positions),
      [trainingNames.segments]: grid(segments),
      [trainingNames.targetPlaces]: { data: places, dims: [count, 2] },
      [trainingNames.targets]: { data: targets, dims: [count] },
      [trainingNames.targetWeights]: { data: weights, dims: [count] },
    },
    targets: found,
    tokens: lengths.reduce((sum, length) => sum + length, 0),
  }
}
