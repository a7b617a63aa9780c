// Does a series grow? A straight line through it, by least squares.

export interface Growth {
  /** Of the line, from its beginning to its end. */
  readonly growth: number
  readonly mean: number
}

export function growthOf(series: readonly number[]): Growth {
  const mean = series.reduce((sum, value) => sum + value, 0) / series.length
  const middle = (series.length - 1) / 2
  let [above, below] = [0, 0]
  for (const [at, value] of series.entries()) {
    above += (at - middle) * (value - mean)
    below += (at - middle) ** 2
  }
  return { growth: (above / below) * (series.length - 1), mean }
}
