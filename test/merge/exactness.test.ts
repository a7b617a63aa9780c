// Whole merges against sums in double, for every stored type, and shapes that are no multiple of anything.
import { describe, expect, it } from 'vitest'
import type { Change } from '../../compiler/adapter/change.ts'
import { decodeFloats } from '../../compiler/safetensors/decode.ts'
import type { FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { seeded } from '../compiler/random.ts'
import { mergeReference, roundTo, unitAt } from '../parity/reference-merge.ts'
import { adapter, encodeRaw, lowRank, mergeInMemory, randomTensor, readRaw } from './checkpoints.ts'

const DTYPES = ['F32', 'F16', 'BF16'] as const

/**
 * [out, in] and ranks. The first are smaller than a step of the kernel, one way or the other; the last is larger than a
 * block of the memory.
 */
const SHAPES: readonly (readonly [number, number, readonly number[]])[] = [
  [1, 1, [1]],
  [3, 40, [2]],
  [40, 3, [2]],
  [4, 8, [1]],
  [5, 9, [1, 3]],
  [7, 23, [5]],
  [13, 17, [7, 2, 3]],
  [66, 131, [31]],
  [1030, 611, [3, 2]],
]

/** Within half a unit of the exact sum, and what fp32 loses while summing. */
function expectExact(found: Float32Array, sums: Float64Array, terms: Float64Array, dtype: FloatDtype): void {
  expect(found.length).toBe(sums.length)
  found.forEach((value, i) => {
    const sum = sums[i]!
    const slack = dtype === 'F32' ? 2 ** -45 * terms[i]! : 2 ** -21 * terms[i]!
    if (value !== roundTo(value, dtype)) expect.fail(`${value} is no ${dtype}`)
    if (!(Math.abs(value - sum) <= unitAt(sum, dtype) / 2 + slack)) expect.fail(`[${i}]: ${value}, exactly ${sum}`)
  })
}

describe.each(DTYPES)('%s', (dtype) => {
  it.each(SHAPES)('adds to a [%i, %i] the deltas of ranks %j', async (out, inSize, ranks) => {
    for (const transposed of [false, true]) {
      const random = seeded(out * 31 + inSize)
      const shape = transposed ? [inSize, out] : [out, inSize]
      const file = encodeRaw({ w: randomTensor(dtype, shape, random) })
      const weights = [0.7, -1.3, 2]
      const changes = ranks.map((r) => lowRank('w', { r, in: inSize, out }, random, { transposed }))
      const adapters = changes.map((change, i) => adapter(`a${i}`, weights[i]!, [change]))
      const { files } = await mergeInMemory({ 'model.safetensors': file }, adapters)
      const before = (await readRaw(file)).get('w') as FloatTensorSource
      const after = (await readRaw(files.get('model.safetensors')!)).get('w') as FloatTensorSource
      const scaled: Change[] = changes.map((change, i) => ({ ...change, scaling: change.scaling * weights[i]! }))
      const absolute = changes.map((change, i) => ({
        ...change,
        A: change.A.map(Math.abs),
        B: change.B.map(Math.abs),
        scaling: change.scaling * Math.abs(weights[i]!),
      }))
      const stored = Float64Array.from(await readFloats(before))
      const sums = await mergeReference(stored, shape[1]!, scaled)
      const terms = await mergeReference(stored.map(Math.abs), shape[1]!, absolute)
      expectExact(await readFloats(after), sums, terms, dtype)
    }
  })

  it('gives DoRA its norms, rows or columns', async () => {
    for (const transposed of [false, true]) {
      const random = seeded(5)
      const [out, inSize, r] = [301, 1201, 5]
      const shape = transposed ? [inSize, out] : [out, inSize]
      const file = encodeRaw({ w: randomTensor(dtype, shape, random) })
      const magnitude = Float32Array.from({ length: out }, () => 1 + random())
      const change = lowRank('w', { r, in: inSize, out }, random, { transposed, magnitude })
      const { files } = await mergeInMemory({ 'model.safetensors': file }, [adapter('a', 1, [change])])
      const before = Float64Array.from(await readFloats((await readRaw(file)).get('w') as FloatTensorSource))
      const after = await readFloats((await readRaw(files.get('model.safetensors')!)).get('w') as FloatTensorSource)
      const sums = await mergeReference(before, shape[1]!, [change])
      after.forEach((value, i) => {
        const bound = unitAt(sums[i]!, dtype) * (dtype === 'F32' ? 2 : 0.51) + 1e-6
        if (!(Math.abs(value - sums[i]!) <= bound)) expect.fail(`[${i}]: ${value}, exactly ${sums[i]}`)
      })
    }
  })

  it('adds biases and replaces rows', async () => {
    const random = seeded(6)
    const file = encodeRaw({ b: randomTensor(dtype, [37], random), e: randomTensor(dtype, [50, 6], random) })
    const bias = Float32Array.from({ length: 37 }, () => random())
    const rows = Float32Array.from({ length: 12 }, () => random())
    const { files } = await mergeInMemory({ 'model.safetensors': file }, [
      adapter('a', 1, [
        { kind: 'add', tensor: 'b', value: bias, scaling: 1.5, sources: ['x'] },
        { kind: 'rows', tensor: 'e', rows: [49, 3], value: rows, sources: ['y'] },
      ]),
      adapter('b', -0.25, [{ kind: 'add', tensor: 'b', value: bias, scaling: 1.5, sources: ['x'] }]),
    ])
    const [before, after] = [await readRaw(file), await readRaw(files.get('model.safetensors')!)]
    const values = async (tensors: typeof before, name: string) => readFloats(tensors.get(name) as FloatTensorSource)
    const b = await values(before, 'b')
    expect([...(await values(after, 'b'))]).toEqual([...b.map((w, i) => roundTo(w + 0.75 * 1.5 * bias[i]!, dtype))])
    const expected = await values(before, 'e')
    expected.set(
      rows.subarray(0, 6).map((value) => roundTo(value, dtype)),
      49 * 6,
    )
    expected.set(
      rows.subarray(6).map((value) => roundTo(value, dtype)),
      3 * 6,
    )
    expect(await values(after, 'e')).toEqual(expected)
  })

  it('takes a whole tensor of another float type, rounded once, and of its own to the bit', async () => {
    for (const theirs of DTYPES) {
      const random = seeded(7)
      const file = encodeRaw({ w: randomTensor(dtype, [9, 11], random) })
      const value = (await readRaw(encodeRaw({ w: randomTensor(theirs, [9, 11], random) }))).get(
        'w',
      ) as FloatTensorSource
      const change: Change = { kind: 'replace', tensor: 'w', value, sources: ['w'] }
      const { files } = await mergeInMemory({ 'model.safetensors': file }, [adapter('a', 1, [change])])
      const after = (await readRaw(files.get('model.safetensors')!)).get('w') as FloatTensorSource
      const expected = (await readFloats(value)).map((value) => roundTo(value, dtype))
      expect(await readFloats(after)).toEqual(expected)
    }
  })

  it('leaves a tensor to the bit where a factor is zero, whatever its signs of zero', async () => {
    const zeros = new Uint8Array(dtype === 'F32' ? 4 * 64 : 2 * 64).fill(0x80)
    const file = encodeRaw({ w: { dtype, shape: [8, 8], bytes: zeros } })
    const change = lowRank('w', { r: 2, in: 8, out: 8 }, seeded(1))
    const { files, report } = await mergeInMemory({ 'model.safetensors': file }, [
      adapter('a', 1, [{ ...change, B: new Float32Array(16) }]),
    ])
    expect(files.get('model.safetensors')).toEqual(file)
    expect(report.changed).toEqual([])
    expect(decodeFloats(new Uint8Array(zeros), dtype).length).toBe(64)
  })
})
