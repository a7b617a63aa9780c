// The table of rotary embeddings, with the roundings that the models were trained with.

/**
 * Row p: cos(p·f₀) … cos(p·f_{d/2-1}), sin(p·f₀) … sin(p·f_{d/2-1}) with f_i = θ^(-2i/d); float32 [positions, d].
 * transformers computes f and p·f in fp32; at position 500 that moves an angle by 1e-5, so it is part of the model.
 */
export function ropeTable(positions: number, headDim: number, theta: number): Float32Array<ArrayBuffer> {
  const half = headDim / 2
  const table = new Float32Array(positions * headDim)
  for (let i = 0; i < half; i += 1) {
    const frequency = Math.fround(1 / Math.fround(theta ** Math.fround((2 * i) / headDim)))
    for (let position = 0; position < positions; position += 1) {
      const angle = Math.fround(position * frequency)
      table[position * headDim + i] = Math.cos(angle)
      table[position * headDim + half + i] = Math.sin(angle)
    }
  }
  return table
}
