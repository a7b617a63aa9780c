// Lanes against plain JavaScript: the same bytes for every storage, stored type and number of lanes.
import { describe, expect, it } from 'vitest'
import { type Coding, WeightLanes } from '../../compiler/lanes/weight-lanes.ts'
import { inlineLanes } from '../../compiler/merge/inline-lanes.ts'
import { toHalves } from '../../compiler/quantise/half.ts'
import { quantiseBlocks } from '../../compiler/quantise/nbits.ts'
import { magnitudes, quantiseMagnitudes, quantiseNf4 } from '../../compiler/quantise/nf4.ts'
import { BLOCKS, type IntegerSpec } from '../../compiler/quantise/spec.ts'
import { quantiseTensor } from '../../compiler/quantise/stream.ts'
import { decodeFloats, ELEMENT_BYTES } from '../../compiler/safetensors/decode.ts'
import type { FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { type FloatTensorSource, readTransposed } from '../../compiler/safetensors/stream.ts'
import { wasmLanes } from '../../runtime/wasm-lanes.ts'

const DTYPES = ['F32', 'F16', 'BF16'] as const

/** Finite bit patterns at random: subnormals, zeros of both signs, blocks of one value, and much between 2⁻⁷ and 2⁻⁴. */
function randomTensor(dtype: FloatDtype, shape: readonly [number, number], seed: number): FloatTensorSource {
  const random = xorshift(seed)
  const count = shape[0] * shape[1]
  const bytes = new Uint8Array(count * ELEMENT_BYTES[dtype])
  const words = dtype === 'F32' ? new Uint32Array(bytes.buffer) : new Uint16Array(bytes.buffer)
  const [width, bias, bits] = { F32: [23, 127, 32], F16: [10, 15, 16], BF16: [7, 127, 16] }[dtype] as [
    number,
    number,
    number,
  ]
  for (let i = 0; i < count; i += 1) {
    const block = Math.floor(i / 16)
    const kind = (block * 2654435761) % 11
    const exponent = kind === 0 ? 0 : kind === 1 ? bias + (random() & 7) - 8 : bias - 7 + (random() & 3)
    const fraction = kind === 2 ? 0 : random() & (2 ** width - 1)
    const sign = kind === 3 ? 0 : random() & 1
    // Some blocks of zeros, of either sign, and some of one value.
    if (kind === 4) words[i] = random() & 1 ? 0 : (1 << (bits - 1)) >>> 0
    else if (kind === 5) words[i] = (bias - 5) << width
    else words[i] = ((sign << (bits - 1)) | (exponent << width) | fraction) >>> 0
  }
  return {
    name: `${dtype} ${shape}`,
    dtype,
    shape,
    offset: 0,
    bytes: bytes.length,
    source: {
      name: 'memory',
      size: bytes.length,
      read: async (offset, length) => bytes.slice(offset, offset + length),
      close: async () => {},
    },
  }
}

function xorshift(seed: number): () => number {
  let state = seed * 0x9e3779b1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state
  }
}

const floatsOf = async (tensor: FloatTensorSource) =>
  decodeFloats(await tensor.source.read(tensor.offset, tensor.bytes), tensor.dtype)

async function withLanes<T>(
  lanes: Parameters<typeof WeightLanes.open>[0],
  codings: readonly Coding[],
  tensor: FloatTensorSource,
  use: (lanes: WeightLanes) => Promise<T>,
): Promise<T> {
  const opened = await WeightLanes.open(lanes, { dtypes: new Set(DTYPES), codings, turnedBytes: tensor.bytes })
  return use(opened).finally(() => opened.close())
}

function join(pieces: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(pieces))
}

async function coded(lanes: WeightLanes, tensor: FloatTensorSource, coding: Coding) {
  const parts = { codes: [], scales: [], offsets: [], zeroPoints: [] } as Record<string, Uint8Array[]>
  let squaredError = 0
  let squaredNorm = 0
  for await (const span of lanes.code(tensor, coding)) {
    for (const name of ['codes', 'scales', 'offsets', 'zeroPoints'] as const)
      parts[name]?.push(new Uint8Array(span[name]))
    squaredError += span.squaredError
    squaredNorm += span.squaredNorm
  }
  const { codes = [], scales = [], offsets = [], zeroPoints = [] } = parts
  return {
    codes: join(codes),
    scales: join(scales),
    offsets: join(offsets),
    zeroPoints: join(zeroPoints),
    squaredError,
    squaredNorm,
  }
}

const bytesOf = (array: Uint8Array | Uint16Array | Float32Array) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

function same(found: Uint8Array, wanted: Uint8Array): void {
  expect(Buffer.compare(found, wanted)).toBe(0)
}

const SPECS: IntegerSpec[] = ([4, 8] as const).flatMap((bits) =>
  (['symmetric', 'asymmetric', 'affine'] as const).flatMap((grid) =>
    [false, true].flatMap((search) => BLOCKS.map((block): IntegerSpec => ({ bits, grid, search, block }))),
  ),
)

describe('lanes give the bytes of plain JavaScript', () => {
  // More than a span, so that its end and that of a step are crossed.
  const rows = 530
  it.each(SPECS)('int$bits $grid, blocks of $block, search $search', async (spec) => {
    const coding: Coding = { how: 'integers', spec }
    for (const dtype of DTYPES) {
      const tensor = randomTensor(dtype, [spec.search ? 9 : rows, 1024], spec.block)
      const found = await withLanes(inlineLanes, [coding], tensor, (lanes) => coded(lanes, tensor, coding))
      const wanted = quantiseBlocks(await floatsOf(tensor), spec)
      same(found.codes, wanted.codes)
      same(found.scales, bytesOf(wanted.scales))
      same(found.offsets, bytesOf(wanted.offsets))
      same(found.zeroPoints, wanted.zeroPoints)
      expect(found.squaredError / wanted.squaredError).toBeCloseTo(1, 9)
      expect(found.squaredNorm / wanted.squaredNorm).toBeCloseTo(1, 9)
    }
  })

  it.each(BLOCKS)('nf4, blocks of %i', async (block) => {
    const coding: Coding = { how: 'nf4', block }
    for (const dtype of DTYPES) {
      const tensor = randomTensor(dtype, [rows + 3, 1024], block)
      const found = await withLanes(inlineLanes, [coding], tensor, (lanes) => coded(lanes, tensor, coding))
      const values = await floatsOf(tensor)
      const whole = quantiseMagnitudes(magnitudes(values, block))
      const wanted = quantiseNf4(values, block, whole)
      same(found.codes, wanted.packed)
      same(found.zeroPoints, whole.codes)
      same(found.scales, bytesOf(whole.scales))
      expect(found.squaredError / wanted.squaredError).toBeCloseTo(1, 9)
    }
  })

  it.each(DTYPES)('halves of %s', async (dtype) => {
    const coding: Coding = { how: 'halves' }
    const tensor = randomTensor(dtype, [rows, 1000], 3)
    const found = await withLanes(inlineLanes, [coding], tensor, (lanes) => coded(lanes, tensor, coding))
    same(found.codes, bytesOf(toHalves(await floatsOf(tensor))))
  })

  it.each(DTYPES)('%s transposed, and as it lies', async (dtype) => {
    for (const shape of [
      [16, 8],
      [17, 9],
      [100, 36],
      [576, 1531],
      [1999, 577],
    ] as const) {
      const tensor = randomTensor(dtype, shape, 5)
      const [all, turned] = await withLanes(inlineLanes, [], tensor, async (lanes) => {
        expect(lanes.turns(tensor)).toBe(true)
        const copies: Uint8Array[] = []
        const pieces: Uint8Array[] = []
        let next = 0
        for await (const { start, values } of lanes.transpose(tensor)) {
          expect(start).toBe(next)
          next += values.length / shape[0]
          pieces.push(new Uint8Array(bytesOf(values)))
        }
        if (lanes.takes(tensor)) {
          for await (const { values } of lanes.widen(tensor)) copies.push(new Uint8Array(bytesOf(values)))
        } else copies.push(bytesOf(await floatsOf(tensor)))
        return [join(copies), join(pieces)] as const
      })
      same(all, bytesOf(await floatsOf(tensor)))
      const wanted: Uint8Array[] = []
      for await (const { values } of readTransposed(tensor)) wanted.push(bytesOf(values))
      same(turned, join(wanted))
    }
  })

  it('in any number of threads', async () => {
    const spec: IntegerSpec = { bits: 4, grid: 'affine', search: false, block: 32 }
    const coding: Coding = { how: 'integers', spec }
    const tensor = randomTensor('BF16', [3001, 1024], 7)
    const [first, ...others] = await Promise.all(
      [inlineLanes, wasmLanes(1), wasmLanes(2), wasmLanes(5)].map((lanes) =>
        withLanes(lanes, [coding], tensor, (opened) => coded(opened, tensor, coding)),
      ),
    )
    for (const other of others) expect(other).toEqual(first)
  })

  it('a NaN or an infinity anywhere is seen', async () => {
    for (const dtype of DTYPES) {
      const tensor = randomTensor(dtype, [600, 1024], 11)
      const bytes = await tensor.source.read(0, tensor.bytes)
      const size = ELEMENT_BYTES[dtype]
      const infinity = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 }[dtype]
      for (const [at, word] of [
        [0, infinity],
        [600 * 1024 - 1, infinity],
        [31_337, infinity + 1],
        [7, undefined],
      ] as const) {
        const broken = new Uint8Array(bytes)
        const view = new DataView(broken.buffer)
        if (word !== undefined && size === 4) view.setUint32(at * 4, word, true)
        else if (word !== undefined) view.setUint16(at * 2, word, true)
        const source = {
          ...tensor.source,
          read: async (from: number, length: number) => broken.slice(from, from + length),
        }
        const found = await withLanes(inlineLanes, [], tensor, async (lanes) => {
          let all = true
          for await (const { finite } of lanes.scan({ ...tensor, source })) all &&= finite
          return all
        })
        expect(found).toBe(word === undefined)
      }
    }
  })

  it('a weight beyond fp16 is refused by name, with lanes and without', async () => {
    for (const [value, refused] of [
      [65_519, false],
      [-65_520, true],
    ] as const) {
      const tensor = randomTensor('F32', [24, 1024], 13)
      const bytes = await tensor.source.read(0, tensor.bytes)
      new DataView(bytes.buffer).setFloat32(4 * 20_001, value, true)
      const source = {
        ...tensor.source,
        read: async (from: number, length: number) => bytes.slice(from, from + length),
      }
      const halve = async (means: { lanes?: WeightLanes }) => {
        const options = { method: 'fp16', block: 32, grid: 'symmetric', rounding: 'rtn', keep: [], eight: [] } as const
        for await (const _ of quantiseTensor({ ...tensor, source }, 'up_proj', 'float16', options, means, () => {}));
      }
      const attempts = [halve({}), withLanes(inlineLanes, [{ how: 'halves' }], tensor, (lanes) => halve({ lanes }))]
      for (const attempt of attempts) {
        if (refused) await expect(attempt).rejects.toThrow(/up_proj: a weight is beyond fp16/)
        else await attempt
      }
    }
  })

  it('a file that cannot be read ends the tensor, once nothing is being filled', async () => {
    const tensor = randomTensor('BF16', [3000, 1024], 17)
    let reading = 0
    const read = async (from: number, length: number) => {
      reading += 1
      await Promise.resolve()
      reading -= 1
      if (from > 4e6) throw new Error('the disk is gone')
      return new Uint8Array(length)
    }
    await withLanes(inlineLanes, [{ how: 'halves' }], tensor, async (lanes) => {
      const source = { ...tensor.source, read }
      await expect(coded(lanes, { ...tensor, source }, { how: 'halves' })).rejects.toThrow('the disk is gone')
      expect(reading).toBe(0)
      // And the lanes go on with the next one.
      const found = await coded(lanes, tensor, { how: 'halves' })
      same(found.codes, bytesOf(toHalves(await floatsOf(tensor))))
    })
  })
})
