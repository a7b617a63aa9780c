// Quantised bases: codes against ONNX Runtime's own quantiser and bitsandbytes, artifacts against their dequantised form.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { graphFolder, verifyHost } from '../../cli/graph-folder.ts'
import { parseQuantise } from '../../cli/quantise.ts'
import { compile } from '../../compiler/compile.ts'
import { inlineLanes } from '../../compiler/merge/inline-lanes.ts'
import { fromHalf, toHalf } from '../../compiler/quantise/half.ts'
import { packZeroPoints, quantiseBlocks } from '../../compiler/quantise/nbits.ts'
import { magnitudes, NF4, quantiseMagnitudes, quantiseNf4 } from '../../compiler/quantise/nf4.ts'
import { chooseStorage, type QuantiseOptions } from '../../compiler/quantise/spec.ts'
import { NOWHERE } from '../../compiler/verify/sources.ts'
import { verify } from '../../compiler/verify/verify.ts'
import { score } from '../../gpu-backend/score.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { wasmLanes } from '../../runtime/wasm-lanes.ts'
import { temporaryFolder } from '../e2e/running.ts'

const ROOT = join(import.meta.dirname, '../..')
const DEMO = join(ROOT, 'examples/demo')
const oracle = JSON.parse(readFileSync(join(ROOT, 'test/parity/oracle/quantise/oracle.json'), 'utf8')) as {
  rows: number
  columns: number
  block: number
  weights: number[]
  cases: { bits: 4 | 8; symmetric: boolean; codes: number[]; scales: number[]; zeroPoints: number[] }[]
  nf4: { codes: number[]; absmax: number[]; table: number[] }
}
const weights = Float32Array.from(oracle.weights)

const options = (changes: Partial<QuantiseOptions>): QuantiseOptions => ({
  method: 'int4',
  block: 32,
  grid: 'symmetric',
  rounding: 'rtn',
  keep: [],
  eight: [],
  ...changes,
})

/** Integer i of packed ones. */
const unpack = (bytes: ArrayLike<number>, bits: number, i: number) =>
  bits === 8 ? (bytes[i] as number) : ((bytes[i >> 1] as number) >> (4 * (i % 2))) & 15

describe('halves', () => {
  it('are the nearest, ties to even, over every half and what lies between two', () => {
    const reference = new Float16Array(1)
    for (let half = 0; half < 0x7c00; half += 1) {
      const value = fromHalf(half)
      const next = half + 1 === 0x7c00 ? 65536 : fromHalf(half + 1)
      for (const x of [value, -value, (value + next) / 2, value + (next - value) * 0.51]) {
        reference[0] = Math.fround(x)
        expect(toHalf(x)).toBe(new Uint16Array(reference.buffer)[0])
      }
    }
  })
})

describe('block-wise integers', () => {
  it.each(oracle.cases)(
    "are ONNX Runtime's: $bits bits, symmetric $symmetric",
    ({ bits, symmetric, codes, scales, zeroPoints }) => {
      const grid = symmetric ? 'symmetric' : 'asymmetric'
      const ours = quantiseBlocks(weights, { bits, block: oracle.block, grid, search: false })
      // Scales are halves here and floats there, so a weight close to the middle of two codes may take the other one.
      for (const [b, scale] of scales.entries()) {
        const ratio = scale === 0 ? 0 : fromHalf(ours.scales[b] as number) / scale - 1
        expect(Math.abs(ratio)).toBeLessThan(2 ** -10)
      }
      let different = 0
      for (let i = 0; i < weights.length; i += 1) {
        const distance = Math.abs(unpack(ours.codes, bits, i) - unpack(codes, bits, i))
        expect(distance).toBeLessThanOrEqual(1)
        different += distance
      }
      expect(different / weights.length).toBeLessThan(bits === 4 ? 0.01 : 0.05)
      if (!symmetric) {
        const perRow = oracle.columns / oracle.block
        // A block of zeros has any zero point: its scale is 0 here.
        const packed = packZeroPoints(ours.zeroPoints, perRow, bits)
        for (let b = 0; b < scales.length; b += 1) {
          if (ours.scales[b] !== 0) expect(unpack(packed, bits, b)).toBe(unpack(zeroPoints, bits, b))
        }
      }
    },
  )

  it('have no larger error after a search, in any block', () => {
    for (const grid of ['symmetric', 'asymmetric', 'affine'] as const) {
      for (let b = 0; b < weights.length; b += 32) {
        const block = weights.subarray(b, b + 32)
        const plain = quantiseBlocks(block, { bits: 4, block: 32, grid, search: false }).squaredError
        const searched = quantiseBlocks(block, { bits: 4, block: 32, grid, search: true }).squaredError
        expect(searched).toBeLessThanOrEqual(plain)
      }
    }
  })

  it('keep a block that lies on an affine grid of 16 steps, as Q4_1 does', () => {
    const [d, m] = [fromHalf(toHalf(0.013)), fromHalf(toHalf(-0.0917))]
    const block = Float32Array.from({ length: 32 }, (_, i) => d * ((i * 7) % 16) + m)
    const { codes, scales, squaredError, squaredNorm } = quantiseBlocks(block, {
      bits: 4,
      block: 32,
      grid: 'affine',
      search: false,
    })
    expect(Array.from({ length: 32 }, (_, i) => unpack(codes, 4, i))).toEqual(
      Array.from({ length: 32 }, (_, i) => (i * 7) % 16),
    )
    expect(fromHalf(scales[0] as number)).toBeCloseTo(d, 6)
    expect(Math.sqrt(squaredError / squaredNorm)).toBeLessThan(2 ** -9)
  })
})

describe('NF4', () => {
  it("has bitsandbytes' table, largest magnitudes and codes", () => {
    expect(oracle.nf4.table.map(Math.fround)).toEqual(NF4.map(Math.fround))
    const largest = magnitudes(weights, 64)
    expect([...largest]).toEqual(oracle.nf4.absmax.map(Math.fround))
    // Exact magnitudes, as bitsandbytes has them without double quantisation: a group of one block, scale 1.
    for (const [b, absmax] of [...largest].entries()) {
      const one = { codes: Uint8Array.of(1), scales: Float32Array.of(absmax) }
      const { packed } = quantiseNf4(weights.subarray(b * 64, (b + 1) * 64), 64, one)
      expect([...packed]).toEqual(oracle.nf4.codes.slice(b * 32, (b + 1) * 32))
    }
  })

  it('quantises the magnitudes to half a step of 1/255 of the largest in the group', () => {
    const largest = Float32Array.from({ length: 300 }, (_, i) => 0.01 + ((i * 37) % 101) / 100)
    const { codes, scales } = quantiseMagnitudes(largest)
    expect(codes).toHaveLength(512)
    for (const [i, value] of largest.entries()) {
      const scale = scales[i >> 8] as number
      expect(Math.abs((codes[i] as number) * scale - value)).toBeLessThanOrEqual(scale / 2 + 1e-7)
    }
  })
})

describe('storage', () => {
  const modules = [
    { module: 'model.embed_tokens', in: 64 },
    { module: 'model.layers.0.mlp.up_proj', in: 64 },
    { module: 'model.layers.1.mlp.up_proj', in: 48 },
  ]
  it('is the method, int8 for the embedding, fp16 where a row is not whole blocks, float32 where kept', () => {
    expect([...chooseStorage(options({}), modules).values()]).toEqual(['int8', 'int4', 'float16'])
    const eight = options({ keep: ['model.embed_tokens'], eight: ['model.layers.*.mlp.up_proj'] })
    expect([...chooseStorage(eight, modules).values()]).toEqual(['float32', 'int8', 'float16'])
  })
  it('refuses a pattern that names nothing', () => {
    expect(() => chooseStorage(options({ keep: ['lm_haed'] }), modules)).toThrow(/--keep "lm_haed" names no module/)
  })
})

describe('--quantize', () => {
  it('int4 is affine unless another grid is asked for; int8 has a plain scale', () => {
    const grid = (flags: Parameters<typeof parseQuantise>[0]) => {
      const options = parseQuantise(flags)
      return options !== undefined && 'grid' in options ? options.grid : undefined
    }
    expect(grid({ quantize: 'int4' })).toBe('affine')
    expect(grid({ quantize: 'int4', symmetric: true })).toBe('symmetric')
    expect(grid({ quantize: 'int4', asymmetric: true })).toBe('asymmetric')
    expect(grid({ quantize: 'int8' })).toBe('symmetric')
    expect(grid({ quantize: 'nf4' })).toBe('symmetric')
  })
  it('has gptq go by a calibration text, and nothing else', () => {
    expect(parseQuantise({ quantize: 'int4', method: 'gptq', calibration: 'a.txt' })).toMatchObject({
      rounding: 'gptq',
    })
    expect(() => parseQuantise({ quantize: 'int4', method: 'gptq' })).toThrow(/go together/)
    expect(() => parseQuantise({ quantize: 'int4', calibration: 'a.txt' })).toThrow(/go together/)
    expect(() => parseQuantise({ calibration: 'a.txt' })).toThrow(/goes with --quantize/)
  })
  it('refuses two grids, and a grid where there is none', () => {
    expect(() => parseQuantise({ quantize: 'int4', affine: true, symmetric: true })).toThrow(/--symmetric and --affine/)
    expect(() => parseQuantise({ quantize: 'nf4', symmetric: true })).toThrow(/for int4 and int8/)
    expect(() => parseQuantise({ quantize: 'int8', affine: true })).toThrow(/--affine is for int4/)
    expect(() => parseQuantise({ symmetric: true })).toThrow(/--symmetric goes with --quantize/)
  })
})

describe('artifacts of the demo base', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  beforeAll(async () => {
    folder = await temporaryFolder()
  })
  afterAll(() => folder.remove())

  const make = async (name: string, target: 'routed' | 'merged', quantise?: QuantiseOptions, adapter = 'triage') => {
    const path = join(folder.path, name)
    const staged = await stageFolder(path)
    const adapters = [{ name: adapter, folder: openFolder(join(DEMO, 'adapters', adapter)) }]
    const made = await compile(
      { base: openFolder(join(DEMO, 'base')), adapters, target, ...(quantise && { quantise }) },
      staged,
      nodeHost,
    )
    await staged.commit(path)
    return { path, ...made }
  }

  it.each([
    ['int4', options({})],
    ['int4 asymmetric', options({ grid: 'asymmetric', block: 16 })],
    ['int4 affine', options({ grid: 'affine', rounding: 'search', keep: ['model.layers.0.mlp.down_proj'] })],
    ['int8', options({ method: 'int8' })],
    ['nf4', options({ method: 'nf4', block: 64 })],
    ['fp16', options({ method: 'fp16' })],
  ])('%s: both graphs compute what the codes say, with the adapter beside them', async (name, quantise) => {
    const { path, manifest, layerErrors } = await make(name, 'routed', quantise)
    const sources = { base: openFolder(join(DEMO, 'base')) }
    const report = await verify({ artifact: graphFolder(path), sources }, verifyHost(folder.path))
    expect(report.problems).toEqual([])
    expect(report.comparisons.map(({ subject, form, against }) => `${subject}: ${form}, ${against}`)).toContain(
      'base: quantised, dequantised',
    )
    expect(manifest.quantisation?.method).toBe(quantise.method)
    const largest = Math.max(...layerErrors.map(({ relativeError }) => relativeError))
    expect(largest).toBeLessThan({ int4: 0.13, int8: 0.01, nf4: 0.12, fp16: 0.001 }[quantise.method])
  })

  it.each([
    ['float32', undefined],
    ['int4', options({ grid: 'affine', keep: ['model.layers.0.mlp.down_proj'], eight: ['model.layers.1.mlp.*'] })],
    ['int8', options({ method: 'int8', grid: 'asymmetric' })],
    ['nf4', options({ method: 'nf4', block: 64 })],
    ['fp16', options({ method: 'fp16' })],
  ])('%s: the same artifact without lanes, in one and in three', async (_, quantise) => {
    const adapters = [{ name: 'triage', folder: openFolder(join(DEMO, 'adapters/triage')) }]
    const target = quantise === undefined ? 'merged' : 'routed'
    const input = { base: openFolder(join(DEMO, 'base')), adapters, target, ...(quantise && { quantise }) } as const
    const ids = new Set<string>()
    for (const lanes of [undefined, inlineLanes, wasmLanes(3)]) {
      ids.add((await compile(input, NOWHERE, nodeHost, () => {}, lanes)).id)
    }
    expect(ids.size).toBe(1)
  })

  it.each(['triage', 'dates', 'clauses'])(
    'keep %s nearer to the float model beside an int4 base than merged into it',
    async (adapter) => {
      const quantise = options({})
      const ids = JSON.parse(readFileSync(join(ROOT, 'test/parity/oracle/demo.json'), 'utf8')).score.ids as number[]
      const float = await make(`float-${adapter}`, 'routed', undefined, adapter)
      const beside = await make(`beside-${adapter}`, 'routed', quantise, adapter)
      const merged = await make(`merged-${adapter}`, 'merged', quantise, adapter)
      const logprobs = async (path: string, beside?: string) =>
        (
          await score({ artifact: path, ...(beside && { adapter: beside }), input: { tokenIds: ids }, threads: 1 })
        ).tokens.map(({ logprob }) => logprob ?? 0)
      const reference = await logprobs(float.path, adapter)
      const error = (values: number[]) =>
        Math.sqrt(values.reduce((sum, value, i) => sum + (value - (reference[i] as number)) ** 2, 0) / values.length)
      const [near, far] = [error(await logprobs(beside.path, adapter)), error(await logprobs(merged.path))]
      expect(near).toBeLessThan(far)
    },
  )
})
