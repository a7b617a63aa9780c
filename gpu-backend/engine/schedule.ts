// Which rows share the next prefill run.

export interface Prefilling {
  /** Prompt tokens that the row has not run yet. */
  readonly left: number
  /** The most that one run may take of them. */
  readonly chunk: number
  /** The step that last ran some of them; 0 for none. */
  readonly lastPrefill: number
}

export interface Chunk<Row> {
  readonly row: Row
  readonly tokens: number
}

/**
 * A run costs rows × longest chunk, padding included, so rows join while that product stays within `budget`. Prompts
 * take turns, the one that ran longest ago first, so that a short one waits for one chunk of a long one and not for all
 * of it. The first row always runs: a long prompt takes several steps, short ones share one.
 */
export function planPrefill<Row extends Prefilling>(rows: readonly Row[], budget: number): Chunk<Row>[] {
  const chunks: Chunk<Row>[] = []
  let longest = 0
  for (const row of rows.toSorted((a, b) => a.lastPrefill - b.lastPrefill)) {
    const tokens = Math.min(row.left, row.chunk, budget)
    const width = Math.max(longest, tokens)
    if (chunks.length > 0 && (chunks.length + 1) * width > budget) break
    chunks.push({ row, tokens })
    longest = width
  }
  return chunks
}
