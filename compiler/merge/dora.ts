// DoRA: each output of V = W + s·B·A gets the length that the adapter learnt: W' = (m / ‖V‖)·V, the norm over its inputs.

/** Rows `start` … of V, whose outputs are rows, in place. */
export function scaleRows(values: Float32Array, start: number, columns: number, magnitude: Float32Array): void {
  for (let at = 0, row = start; at < values.length; at += columns, row += 1) {
    let square = 0
    for (let i = at; i < at + columns; i += 1) square += (values[i] as number) ** 2
    const factor = (magnitude[row] as number) / Math.sqrt(square)
    for (let i = at; i < at + columns; i += 1) values[i] = (values[i] as number) * factor
  }
}

/** Where W is stored transposed, outputs are columns: adds the squares of some rows to those of each. */
export function addSquares(values: Float32Array, squares: Float64Array): void {
  const columns = squares.length
  for (let at = 0; at < values.length; at += columns) {
    for (let i = 0; i < columns; i += 1) squares[i] = (squares[i] as number) + (values[at + i] as number) ** 2
  }
}

/** Some rows of V, whose outputs are columns, in place. */
export function scaleColumns(values: Float32Array, factors: Float64Array): void {
  const columns = factors.length
  for (let at = 0; at < values.length; at += columns) {
    for (let i = 0; i < columns; i += 1) values[at + i] = (values[at + i] as number) * (factors[i] as number)
  }
}
