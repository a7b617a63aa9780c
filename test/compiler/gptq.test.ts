// GPTQ against numpy's, which takes the paper's way by the inverse: the same codes, and a smaller loss on the inputs.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { inverseFactor, quantiseCompensated } from '../../compiler/quantise/gptq.ts'
import { fromHalf } from '../../compiler/quantise/half.ts'
import { quantiseBlocks } from '../../compiler/quantise/nbits.ts'
import type { Grid, IntegerSpec } from '../../compiler/quantise/spec.ts'

interface Case {
  readonly grid: Grid
  readonly bits: 4 | 8
  readonly block: number
  readonly shape: readonly [number, number]
  readonly W: readonly number[]
  readonly H: readonly number[]
  readonly diagonal: readonly number[]
  readonly codes: readonly number[]
  readonly lossOfPlain: number
  readonly lossOfGptq: number
}

const { cases }: { cases: Case[] } = JSON.parse(readFileSync(new URL('gptq-oracle.json', import.meta.url), 'utf8'))
const specOf = ({ bits, block, grid }: Case): IntegerSpec => ({ bits, block, grid, search: false })

function unpack(codes: Uint8Array, bits: number): number[] {
  return bits === 8 ? [...codes] : [...codes].flatMap((pair) => [pair & 15, pair >> 4])
}

describe.each(cases)('gptq, $grid, $bits bits, blocks of $block', (one) => {
  const { W, H, shape, diagonal, bits, block, grid, codes } = one
  const [, n] = shape
  const factor = inverseFactor(Float64Array.from(H), n)
  const made = quantiseCompensated(Float32Array.from(W), n, specOf(one), factor)

  it('has the factor of the inverse', () => {
    for (let i = 0; i < n; i++) {
      expect((factor[i * n + i] as number) / (diagonal[i] as number)).toBeCloseTo(1, 9)
      for (let j = 0; j < i; j++) expect(factor[i * n + j]).toBe(0)
    }
  })

  it('has numpy’s codes', () => {
    expect(unpack(made.codes, bits)).toEqual(codes)
  })

  it('loses less on the inputs than rounding alone, as much as numpy’s does', () => {
    const lossOf = ({ codes: packed, scales, zeroPoints, offsets }: typeof made) => {
      const all = unpack(packed, bits)
      const difference = all.map((code, at) => {
        const b = Math.floor(at / block)
        const zero = grid === 'asymmetric' ? (zeroPoints[b] as number) : 2 ** (bits - 1)
        const offset = grid === 'affine' ? fromHalf(offsets[b] as number) : 0
        return (code - zero) * fromHalf(scales[b] as number) + offset - (W[at] as number)
      })
      let loss = 0
      for (let first = 0; first < all.length; first += n) {
        for (let i = 0; i < n; i++) {
          for (let j = 0; j < n; j++) {
            loss += (difference[first + i] as number) * (H[i * n + j] as number) * (difference[first + j] as number)
          }
        }
      }
      return loss
    }
    const plain = lossOf(quantiseBlocks(Float32Array.from(W), specOf(one)))
    expect(lossOf(made) / one.lossOfGptq).toBeCloseTo(1, 6)
    expect(plain / one.lossOfPlain).toBeCloseTo(1, 6)
    expect(lossOf(made)).toBeLessThan(plain)
  })

  it('is rounding to the nearest where no input goes along with another', () => {
    const identity = new Float64Array(n * n)
    for (let i = 0; i < n; i++) identity[i * n + i] = 1
    const alone = quantiseCompensated(Float32Array.from(W), n, specOf(one), inverseFactor(identity, n))
    const plain = quantiseBlocks(Float32Array.from(W), specOf(one))
    expect(alone.codes).toEqual(plain.codes)
    expect(alone.scales).toEqual(plain.scales)
  })
})
