// Which rows share the next prefill run.

export interface Prefilling {
  /** Prompt tokens that the row has not run yet. */
  readonly left: number
}

export interface Chunk<Row> {
  readonly row: Row
  readonly tokens: number
}

/**
 * A run costs rows × longest chunk, padding included, so rows join in order while that product stays within `budget`.
 * The first row always runs: a long prompt takes several steps, short ones share one.
 */
export function planPrefill<Row extends Prefilling>(rows: readonly Row[], budget: number): Chunk<Row>[] {
  const chunks: Chunk<Row>[] = []
  let longest = 0
  for (const row of rows) {
    const tokens = Math.min(row.left, budget)
    const width = Math.max(longest, tokens)
    if (chunks.length > 0 && (chunks.length + 1) * width > budget) break
    chunks.push({ row, tokens })
    longest = width
  }
  return chunks
}
