// How long the rows of a run will be, before it begins.
import { countTargets, type Example } from '../data/example.ts'
import { rowsOfEpoch } from '../data/order.ts'

export interface RowShape {
  /** Tokens of a row as it will be padded. */
  readonly tokens: number
  /** Those of a row that are predicted. */
  readonly targets: number
}

/** Without examples: of rows as long as they may be. */
export function rowShape(
  examples: readonly Example[],
  { maxLength, packing }: { readonly maxLength: number; readonly packing: boolean },
): RowShape {
  const order = { seed: 0, shuffle: false, packTokens: packing ? maxLength - 1 : undefined }
  const rows = rowsOfEpoch(examples, order, 0)
  if (rows.length === 0) return { tokens: maxLength - 1, targets: maxLength - 1 }
  const lengths = rows.map((row) => row.reduce((sum, { ids }) => sum + ids.length - 1, 0))
  // A batch is as wide as its longest row: the mean of the upper half, where rows are drawn at random.
  const upper = lengths.toSorted((a, b) => b - a).slice(0, Math.ceil(lengths.length / 2))
  const mean = Math.round(upper.reduce((a, b) => a + b, 0) / upper.length)
  return { tokens: packing ? maxLength - 1 : mean, targets: Math.ceil(countTargets(examples) / rows.length) }
}
