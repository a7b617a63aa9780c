// The kernel against arithmetic in double and a rounding that knows nothing of bits: every tie, every subnormal.
import { beforeAll, describe, expect, it } from 'vitest'
import { assembleModule } from '../../compiler/merge/assembler.ts'
import { inlineLanes } from '../../compiler/merge/inline-lanes.ts'
import { mergeFunction, OVERFLOW_BITS, STEP_COLUMNS } from '../../compiler/merge/kernel-code.ts'
import type { Lanes } from '../../compiler/merge/matrix.ts'
import { roundFloats } from '../../compiler/merge/round.ts'
import type { FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { roundTo } from '../parity/reference-merge.ts'

const DTYPES = ['F32', 'F16', 'BF16'] as const
const HALVES = ['F16', 'BF16'] as const
const PAGES = 256
const [SOURCE, TARGET, LEFT, RIGHT] = [0, 1 << 22, 2 << 22, 3 << 22]

let lanes: Lanes
let memory: ArrayBuffer

beforeAll(async () => {
  const functions = DTYPES.map(mergeFunction)
  lanes = await inlineLanes.open(
    (shared) => assembleModule(functions, { shared, initialPages: PAGES, maximumPages: PAGES }),
    PAGES,
  )
  memory = lanes.buffer as ArrayBuffer
})

/** What a 16-bit pattern means, by the definition of the type. */
function meaning(bits: number, dtype: 'F16' | 'BF16'): number {
  const [width, bias] = dtype === 'F16' ? [10, 15] : [7, 127]
  const exponent = (bits & 0x7fff) >> width
  const fraction = (bits & (2 ** width - 1)) / 2 ** width
  const sign = bits & 0x8000 ? -1 : 1
  if (exponent === 2 * bias + 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias)
}

const isFinitePattern = (bits: number, dtype: 'F16' | 'BF16') => Number.isFinite(meaning(bits, dtype))

/** The float next to a positive one. */
function besideFloat(value: number, step: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)
  bits[0] = bits[0]! + step
  return new Float32Array(bits.buffer)[0]!
}

/** source + left·right for one vector of the matrix: rank 1, left all ones, right the deltas of one row. */
async function addRow(dtype: FloatDtype, stored: Uint16Array | Float32Array, deltas: Float32Array) {
  const columns = deltas.length
  const rows = 4
  const width = STEP_COLUMNS[dtype]
  for (let row = 0; row < rows; row += 1) {
    const Kind = stored instanceof Float32Array ? Float32Array : Uint16Array
    new Kind(memory, SOURCE + row * stored.byteLength, columns).set(stored)
  }
  const Sum = dtype === 'F32' ? Float64Array : Float32Array
  new Sum(memory, LEFT, 4).fill(1)
  const right = new Sum(memory, RIGHT, Math.ceil(columns / width) * width)
  for (let from = 0; from < columns; from += width) {
    for (let i = 0; i < width; i += 1) right[from + i] = deltas[Math.min(from, columns - width) + i]!
  }
  const largest = (await lanes.run(dtype, [SOURCE, TARGET, LEFT, RIGHT, rows, columns, 1, 3])) >>> 0
  const Kind = stored instanceof Float32Array ? Float32Array : Uint16Array
  const results = Array.from({ length: rows }, (_, row) =>
    new Kind(memory, TARGET + row * stored.byteLength, columns).slice(),
  )
  for (const row of results) expect(row).toEqual(results[0])
  return { result: results[0]!, finite: largest < OVERFLOW_BITS[dtype] }
}

describe.each(HALVES)('%s', (dtype) => {
  const all = Uint16Array.from({ length: 0x10000 }, (_, bits) => bits)
  const finite = all.filter((bits) => isFinitePattern(bits, dtype))

  it('keeps every finite value to which nothing is added', async () => {
    const { result, finite: ok } = await addRow(dtype, finite, new Float32Array(finite.length))
    expect(ok).toBe(true)
    finite.forEach((bits, i) => {
      // −0 + 0 = 0 in every IEEE arithmetic.
      if (result[i] !== (bits === 0x8000 ? 0 : bits)) expect.fail(`${bits.toString(16)} became ${result[i]}`)
    })
  })

  it('tells infinity and NaN of the base, wherever they are', async () => {
    for (const bits of [all.find((bits) => meaning(bits, dtype) === Number.POSITIVE_INFINITY)!, 0xffff, 0x7fff]) {
      for (const at of [0, 9, 20]) {
        const stored = new Uint16Array(21)
        stored[at] = bits
        // A large opposite delta must not bring it back.
        const deltas = new Float32Array(21).fill(dtype === 'F16' ? -40_000 : -1e38)
        expect((await addRow(dtype, stored, deltas)).finite, `${bits} at ${at}`).toBe(false)
      }
    }
  })

  it('rounds to nearest, ties to even: every midpoint, and the floats beside it', async () => {
    const values: number[] = []
    const positive = [...finite].filter((bits) => bits < 0x8000)
    for (const [i, bits] of positive.slice(1).entries()) {
      const middle = (meaning(positive[i]!, dtype) + meaning(bits, dtype)) / 2
      // Half the smallest bfloat16 is no float.
      if (Math.fround(middle) !== middle) continue
      for (const value of [besideFloat(middle, -1), middle, besideFloat(middle, 1)]) values.push(value, -value)
    }
    expect(values.length).toBeGreaterThan(100_000)
    const deltas = Float32Array.from(values)
    const { result, finite: ok } = await addRow(dtype, new Uint16Array(values.length), deltas)
    expect(ok).toBe(true)
    deltas.forEach((value, i) => {
      const found = meaning(result[i]!, dtype)
      if (found !== roundTo(value, dtype)) expect.fail(`${value} became ${found}, not ${roundTo(value, dtype)}`)
    })
    const { bytes, firstBad } = roundFloats(deltas, dtype)
    expect(firstBad).toBe(-1)
    expect(Buffer.compare(bytes, new Uint8Array(result.buffer))).toBe(0)
  })

  it('is finite up to the largest value and half a unit, and not from there on', async () => {
    const [second = 0, largest = 0] = [...finite]
      .filter((bits) => bits < 0x8000)
      .slice(-2)
      .map((bits) => meaning(bits, dtype))
    const edge = largest + (largest - second) / 2
    for (const sign of [1, -1]) {
      for (const [value, expected] of [
        [besideFloat(edge, -1), true],
        [edge, false],
      ] as const) {
        const deltas = new Float32Array(19)
        deltas[18] = sign * value
        expect((await addRow(dtype, new Uint16Array(19), deltas)).finite, `${value}`).toBe(expected)
        expect(roundFloats(deltas, dtype).firstBad).toBe(expected ? -1 : 18)
      }
    }
  })
})

describe('F32', () => {
  it('adds in double and rounds once', async () => {
    const stored = Float32Array.of(1, 1, 1, -1, 1e-45, 3, 2 ** -149, 0.1)
    const deltas = Float32Array.of(2 ** -24, 2 ** -24 + 2 ** -46, 2 ** -25, 2 ** -24, 1e-45, 0, -(2 ** -149), 0.2)
    const { result } = await addRow('F32', stored, deltas)
    const exact = Float32Array.from(stored, (value, i) => value + deltas[i]!)
    expect([...result]).toEqual([...exact])
  })

  it('tells a sum beyond the largest float', async () => {
    const deltas = new Float32Array(5).fill(2 ** 103)
    const stored = new Float32Array(5).fill(3.4028234663852886e38)
    expect((await addRow('F32', stored, deltas)).finite).toBe(false)
    expect((await addRow('F32', stored, new Float32Array(5).fill(2 ** 102))).finite).toBe(true)
  })
})
