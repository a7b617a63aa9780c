// Blocks of a GGUF carried into an artifact: what its codes stand for is what the file's blocks stand for, to the bit.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { compile } from '../../compiler/compile.ts'
import { openGguf } from '../../compiler/gguf/folder.ts'
import { readOnnx } from '../../compiler/onnx/read.ts'
import { carrierOf } from '../../compiler/quantise/carry.ts'
import { carryTensor } from '../../compiler/quantise/carry-stream.ts'
import type { KeepOptions } from '../../compiler/quantise/spec.ts'
import { decodeFloats } from '../../compiler/safetensors/decode.ts'
import { readFloats } from '../../compiler/safetensors/stream.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { memoryOut, memorySource } from '../compiler/folders.ts'
import { FUZZ_SEED, seeded } from '../compiler/random.ts'
import { blocks, type RawTensor, TINY_KEYS, tinyTensors, writeGguf } from './gguf-file.ts'

const KEEP: KeepOptions = { method: 'keep', keep: [] }
const oracle = JSON.parse(readFileSync(join(import.meta.dirname, 'blocks.json'), 'utf8')) as {
  readonly formats: Readonly<Record<string, { readonly blocks: string; readonly float32: string }>>
}
/** z of the formats with offsets: codes from 0 on are stored from −z on. */
const CENTRE: Readonly<Record<string, number>> = { Q4_1: 8, Q4_K: 8, Q5_1: 16, Q5_K: 16 }
const FORMATS = ['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q4_K', 'Q5_K', 'Q6_K']

interface Stored {
  readonly codes: Uint8Array<ArrayBuffer>
  readonly scales: Uint8Array<ArrayBuffer>
  readonly offsets?: Uint8Array<ArrayBuffer> | undefined
}

/** W as the operator's specification has it: low nibble first; a code's zero is half of what it can be. */
function valuesOf({ codes, scales, offsets }: Stored, count: number, block: number, centre: number): Float32Array {
  const four = codes.length === count / 2
  const floats = (bytes: Uint8Array<ArrayBuffer>) =>
    decodeFloats(bytes, bytes.length === (4 * count) / block ? 'F32' : 'F16')
  const [s, c] = [floats(scales), offsets && floats(offsets)]
  return Float32Array.from({ length: count }, (_, i) => {
    const b = Math.floor(i / block)
    const q = four ? ((codes[i >> 1]! >> (4 * (i & 1))) & 15) - 8 : codes[i]! - 128
    return (q + centre) * s[b]! + (c?.[b] ?? 0)
  })
}

const differing = (a: Float32Array, b: Float32Array) => [...a.keys()].filter((i) => a[i] !== b[i])
const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))

describe('one format', () => {
  it.each(FORMATS.flatMap((format) => [[format, false] as const, [format, true] as const]))(
    '%s, wide %s: the codes stand for the numbers of llama.cpp, to the bit',
    async (format, wide) => {
      const { blocks: base64, float32 } = oracle.formats[format]!
      const [stored, wanted] = [bytesOf(base64), new Float32Array(bytesOf(float32).buffer)]
      const carrier = carrierOf(format, wide)!
      const columns = carrier.elements
      const rowBytes = carrier.bytes
      const shape = [wanted.length / columns, columns]
      const rows = async (first: number, count: number) => stored.slice(first * rowBytes, (first + count) * rowBytes)
      const parts = new Map<string, Uint8Array<ArrayBuffer>[]>()
      const tensor = { format, shape, rows }
      const layers: object[] = []
      for await (const { part, bytes } of carryTensor(tensor, 'x', carrier, (layer) => void layers.push(layer))) {
        parts.set(part, [...(parts.get(part) ?? []), new Uint8Array(bytes)])
      }
      const whole = (part: string) => new Uint8Array(Buffer.concat(parts.get(part) ?? []))
      const offsets = parts.has('offsets') ? whole('offsets') : undefined
      const made = { codes: whole('codes'), scales: whole('scales'), offsets }
      expect(differing(valuesOf(made, wanted.length, carrier.block, CENTRE[format] ?? 0), wanted)).toEqual([])
      expect(layers).toMatchObject([{ relativeError: 0, weights: wanted.length }])
    },
  )

  it.each(['F32', 'F16', 'BF16'])('%s is no block', (format) => expect(carrierOf(format, false)).toBeUndefined())

  it('a scale that is no number is refused', async () => {
    const carrier = carrierOf('Q8_0', false)!
    const row = new Uint8Array(34)
    row.set([0x00, 0x7c])
    const tensor = { format: 'Q8_0', shape: [1, 32], rows: async () => row }
    const all = async () => {
      for await (const _ of carryTensor(tensor, 'x', carrier, () => {}));
    }
    await expect(all()).rejects.toMatchObject({ code: 'tensor-not-finite' })
  })
})

/** The file of the tests with formats of all kinds in it. 256 to a block has no place in rows of 64 and 96. */
function mixed(): RawTensor[] {
  const random = seeded(FUZZ_SEED)
  const type = { 'blk.0.attn_k.weight': [2, 18], 'blk.0.ffn_up.weight': [6, 22], 'blk.1.ffn_gate.weight': [7, 24] }
  return tinyTensors(random).map((tensor) => {
    const [number, size] = type[tensor.name as keyof typeof type] ?? []
    if (number === undefined || size === undefined) return tensor
    const [columns = 0, rows = 0] = tensor.sizes
    return { ...tensor, type: number, data: blocks((columns * rows) / 32, size, random) }
  })
}

const open = (tensors: readonly RawTensor[]) => {
  const file = writeGguf({ keys: TINY_KEYS, tensors })
  return openGguf(async () => memorySource('tiny.gguf', file))
}

async function make(tensors: readonly RawTensor[], options: KeepOptions = KEEP) {
  const out = memoryOut()
  const compiled = await compile(
    { base: await open(tensors), adapters: [], target: 'routed', quantise: options },
    out,
    nodeHost,
  )
  return { ...compiled, files: out.files }
}

function weightsOf({ files }: { readonly files: ReadonlyMap<string, Uint8Array> }) {
  const data = files.get('model.onnx_data')!
  const { graph } = readOnnx(files.get('model.onnx')!, 'model.onnx')
  return new Map(
    graph.initializers.flatMap(({ name, external }) =>
      external ? [[name, new Uint8Array(data.slice(external.offset, external.offset + external.length))] as const] : [],
    ),
  )
}

describe('a file of mixed formats', () => {
  it('is carried over whole, rows of queries and keys put back: each weight is that of the float base', async () => {
    const made = await make(mixed())
    const weights = weightsOf(made)
    const checkpoint = await openCheckpoint(await open(mixed()))
    expect(made.kept!.size).toBe(2 * 7 + 1)
    for (const [module, { carrier, format }] of made.kept!) {
      expect(carrier, module).toBeDefined()
      const tensor = checkpoint.tensors.get(`${module}.weight`)!
      const name = module === 'model.embed_tokens' ? `${module}.weight` : `${module}.MatMul.weight`
      const codes = weights.get(`${name}_Q4`) ?? weights.get(`${name}_Q8`)!
      const stored = { codes, scales: weights.get(`${name}_scales`)!, offsets: weights.get(`${name}_offsets`) }
      const wanted = await readFloats(tensor)
      expect(differing(valuesOf(stored, wanted.length, carrier!.block, CENTRE[format] ?? 0), wanted), module).toEqual(
        [],
      )
    }
    await checkpoint.close()
  })

  it('is described: what has another width than most, and the format that each weight had', async () => {
    const { manifest, id } = await make(mixed())
    expect(manifest.quantisation).toMatchObject({ method: 'keep', rounding: 'none', bits: 4, block: 32 })
    expect(manifest.quantisation!.exceptions).toMatchObject({
      'model.embed_tokens': 'int8',
      'model.layers.0.mlp.up_proj': 'int8',
      'model.layers.1.mlp.gate_proj': 'int8',
    })
    expect(manifest.quantisation!.carried).toMatchObject({
      'model.layers.0.self_attn.k_proj': 'Q4_0',
      'model.layers.0.self_attn.q_proj': 'Q4_1',
      'model.layers.0.mlp.up_proj': 'Q5_0',
      'model.layers.1.mlp.gate_proj': 'Q5_1',
      'model.layers.1.mlp.down_proj': 'Q8_0',
    })
    expect((await make(mixed())).id).toBe(id)
  })

  it('leaves what --keep names as floats, and says why', async () => {
    const module = 'model.layers.0.mlp.up_proj'
    const { kept, manifest } = await make(mixed(), { ...KEEP, keep: [module] })
    expect(kept!.get(module)).toEqual({ storage: 'float32', format: 'Q5_0', why: 'asked' })
    expect(manifest.quantisation!.exceptions[module]).toBe('float32')
  })
})

describe('refused', () => {
  it('a GGUF without blocks, and a folder', async () => {
    const floats = tinyTensors(seeded(FUZZ_SEED)).map((tensor) => {
      const count = tensor.sizes.reduce((product, size) => product * size, 1)
      return { ...tensor, type: 0, data: new Uint8Array(4 * count) }
    })
    await expect(make(floats)).rejects.toMatchObject({ message: expect.stringMatching(/no quantised weights/) })
    const base = openFolder(join(import.meta.dirname, '../../examples/demo/base'))
    const input = { base, adapters: [], target: 'routed', quantise: KEEP } as const
    await expect(compile(input, memoryOut(), nodeHost)).rejects.toMatchObject({ code: 'quantise-option' })
  })
})
