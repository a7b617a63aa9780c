// The table of rotary embeddings, with the roundings that the models were trained with.
import type { RopeScaling } from '../checkpoint/decoder.ts'

/**
 * Row p: cos(p·f₀) … cos(p·f_{d/2-1}), sin(p·f₀) … sin(p·f_{d/2-1}) with f_i = θ^(-2i/d), scaled; float32 [positions, d].
 * transformers computes f and p·f in fp32; at position 500 that moves an angle by 1e-5, so it is part of the model.
 */
export function ropeTable(
  positions: number,
  rotaryDim: number,
  theta: number,
  scaling?: RopeScaling,
): Float32Array<ArrayBuffer> {
  const half = rotaryDim / 2
  const table = new Float32Array(positions * rotaryDim)
  const factor = scaling !== undefined && 'attentionFactor' in scaling ? scaling.attentionFactor : 1
  for (let i = 0; i < half; i += 1) {
    const plain = Math.fround(1 / Math.fround(theta ** Math.fround((2 * i) / rotaryDim)))
    const frequency = scaling === undefined ? plain : Math.fround(scaled(plain, i, rotaryDim, theta, scaling))
    for (let position = 0; position < positions; position += 1) {
      const angle = Math.fround(position * frequency)
      table[position * rotaryDim + i] = factor * Math.cos(angle)
      table[position * rotaryDim + half + i] = factor * Math.sin(angle)
    }
  }
  return table
}

function scaled(frequency: number, i: number, rotaryDim: number, theta: number, scaling: RopeScaling): number {
  if (scaling.type === 'linear') return frequency / scaling.factor
  if (scaling.type === 'divided') return frequency / (scaling.divisors[i] as number)
  if (scaling.type === 'llama3') {
    // Long waves are slowed, short ones are not, those between in proportion.
    const { factor, low, high, original } = scaling
    const waves = (original * frequency) / (2 * Math.PI)
    const keep = Math.min(1, Math.max(0, (waves - low) / (high - low)))
    return (1 - keep) * (frequency / factor) + keep * frequency
  }
  // The same ramp over the index of the frequency; beta is the number of turns within the original length.
  const { factor, betaFast, betaSlow, original, truncate } = scaling
  const at = (turns: number) => (rotaryDim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const low = Math.max(0, truncate ? Math.floor(at(betaFast)) : at(betaFast))
  const high = Math.min(rotaryDim - 1, truncate ? Math.ceil(at(betaSlow)) : at(betaSlow))
  const slowed = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)))
  return slowed * (frequency / factor) + (1 - slowed) * frequency
}
