// Every architecture of GGUF that is read, run: the weights to the bit, logits against transformers, and llama.cpp's own reading.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { type Checkpoint, openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { compile } from '../../compiler/compile.ts'
import { InputError } from '../../compiler/errors.ts'
import { openGguf } from '../../compiler/gguf/folder.ts'
import type { KeepOptions } from '../../compiler/quantise/spec.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { isFloatTensor, readFloats } from '../../compiler/safetensors/stream.ts'
import { nodeHost, openFile } from '../../runtime/disk.ts'
import { compileToDisk, memoryOut, memorySource } from '../compiler/folders.ts'
import { FUZZ_SEED, seeded } from '../compiler/random.ts'
import { EngineRunner, ModelRunner, maxError, range } from '../compiler/runner.ts'
import { type RawTensor, type Value, writeGguf } from './gguf-file.ts'

const TOLERANCE = 1e-4
/** Of llama.cpp: its GELU is a table of halves, its sums are in another order. */
const LLAMA_CPP_TOLERANCE = { exact: 2e-5, gelu: 4e-3 }
const PREFILL = 9
const KEPT: KeepOptions = { method: 'keep', keep: [], activations: 'float' }
const ORACLE = join(import.meta.dirname, '../parity/oracle/gguf')
const FORMATS = ['f16', 'q8_0'] as const

interface Case {
  readonly ids: readonly number[]
  readonly tensors: Readonly<Record<(typeof FORMATS)[number], Readonly<Record<string, string>>>>
}
const readJson = (name: string) => JSON.parse(readFileSync(join(ORACLE, name), 'utf8'))
const cases: Readonly<Record<string, Case>> = readJson('architectures.json').cases
const llamaCpp: Readonly<Record<string, { greedy: number[]; logprobs: number[] }>> = readJson('llama-cpp.json').cases

const open = (name: string, format: string) => openGguf(() => openFile(join(ORACLE, `${name}.${format}.gguf`)))

const logits = new Map<string, Float32Array[]>()

beforeAll(async () => {
  const source = await openFile(join(ORACLE, 'logits.safetensors'))
  for (const [key, tensor] of (await readHeader(source)).tensors) {
    if (!isFloatTensor(tensor)) throw new Error(`${key} is not of floats`)
    const [rows = 0, vocab = 0] = tensor.shape
    const values = await readFloats(tensor)
    const row = (at: number) => values.slice(at * vocab, (at + 1) * vocab)
    logits.set(key, range(0, rows).map(row))
  }
  await source.close()
})

/** In both forms: a prefill, then a token a step on its cache. */
async function run(name: string, format: string, quantise?: KeepOptions) {
  const base = await open(name, format)
  await using artifact = await compileToDisk({ base, adapters: [], target: 'merged', ...(quantise && { quantise }) })
  const { ids } = cases[name]!
  const model = await ModelRunner.open(artifact.path, artifact.manifest)
  const engine = await EngineRunner.open(artifact.path, artifact.manifest)
  const first = await model.step([{ ids }], 0, PREFILL)
  let past = first.results
  const ofModel = [...first.logits[0]!]
  const cache = engine.newCache(1, ids.length + 3, 3e38)
  const ofEngine = [...(await engine.step([{ ids }], [0], [PREFILL], cache))[0]!]
  for (const at of range(PREFILL, ids.length)) {
    const step = await model.step([{ ids }], at, at + 1, undefined, past)
    past = step.results
    ofModel.push(...step.logits[0]!)
    ofEngine.push(...(await engine.step([{ ids }], [at], [1], cache))[0]!)
  }
  await model.release()
  await engine.release()
  return { ofModel, ofEngine, manifest: artifact.manifest }
}

async function digests({ tensors }: Checkpoint): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const [name, tensor] of tensors) {
    const bytes = new Uint8Array((await readFloats(tensor)).buffer)
    found[name] = createHash('sha256').update(bytes).digest('hex').slice(0, 16)
  }
  return found
}

const logSoftmax = (row: Float32Array) => {
  const max = Math.max(...row)
  const sum = Math.log(row.reduce((total, logit) => total + Math.exp(logit - max), 0))
  return [...row].map((logit) => logit - max - sum)
}
const largest = (row: Float32Array) => row.indexOf(Math.max(...row))

describe.each(Object.keys(cases))('%s', (name) => {
  it.each(FORMATS)('%s: every tensor is the checkpoint’s, to the bit, by its name', async (format) => {
    const checkpoint = await openCheckpoint(await open(name, format))
    expect(await digests(checkpoint)).toEqual(cases[name]!.tensors[format])
    await checkpoint.close()
  })

  it.each(FORMATS)('%s: prefills and decodes as transformers does', async (format) => {
    const { ofModel, ofEngine } = await run(name, format)
    expect(maxError(ofModel, logits.get(`${name}.${format}`)!)).toBeLessThan(TOLERANCE)
    expect(maxError(ofEngine, logits.get(`${name}.${format}`)!)).toBeLessThan(TOLERANCE)
  })

  it('is the same bytes in any stretch of its weights', async () => {
    const file = (await (await open(name, 'q8_0')).open('model.safetensors'))!
    const whole = await file.read(0, file.size)
    const random = seeded(FUZZ_SEED)
    for (let round = 0; round < 100; round += 1) {
      const from = Math.floor(random() * file.size)
      const length = Math.floor(random() * Math.min(5000, file.size - from))
      expect(Buffer.compare(await file.read(from, length), whole.subarray(from, from + length))).toBe(0)
    }
    await file.close()
  })

  it('is read by llama.cpp as it is read here', async () => {
    const { greedy, logprobs } = llamaCpp[name]!
    const { ofModel } = await run(name, 'f16')
    const { ids } = cases[name]!
    // llama.cpp has Phi's window switched off; below its 11 tokens that changes nothing.
    const count = name === 'phi3' ? 11 : ids.length
    const bound = ['gemma2', 'gemma3', 'gpt2'].includes(name) ? LLAMA_CPP_TOLERANCE.gelu : LLAMA_CPP_TOLERANCE.exact
    expect(ofModel.slice(0, count).map(largest)).toEqual(greedy.slice(0, count))
    const errors = logprobs.slice(0, count).map((log, at) => Math.abs(logSoftmax(ofModel[at]!)[ids[at + 1]!]! - log))
    expect(Math.max(...errors)).toBeLessThan(bound)
  })
})

describe('--quantize keep', () => {
  it.each(Object.keys(cases).filter((name) => name !== 'gpt2'))(
    '%s: the blocks of Q8_0 themselves compute what transformers does',
    async (name) => {
      const { ofModel, ofEngine, manifest } = await run(name, 'q8_0', KEPT)
      const { carried = {}, bitsPerWeight } = manifest.quantisation!
      expect(new Set(Object.values(carried))).toEqual(new Set(['Q8_0']))
      expect(bitsPerWeight).toBeLessThan(9)
      expect(maxError(ofModel, logits.get(`${name}.q8_0`)!)).toBeLessThan(TOLERANCE)
      expect(maxError(ofEngine, logits.get(`${name}.q8_0`)!)).toBeLessThan(TOLERANCE)
    },
  )

  it('refuses gpt2, whose blocks lie across what is multiplied, by its family', async () => {
    const base = await open('gpt2', 'q8_0')
    const input = { base, adapters: [], target: 'merged', quantise: KEPT } as const
    await expect(compile(input, memoryOut(), nodeHost)).rejects.toMatchObject({ code: 'config-unsupported' })
  })
})

describe('refused', () => {
  /** The file without what `drop` names, its data as it was. */
  async function refusal(
    name: string,
    drop: (tensor: string) => boolean,
    keys: Readonly<Record<string, boolean>> = {},
  ) {
    const { metadata, tensors } = await openGguf(() => openFile(join(ORACLE, `${name}.f16.gguf`))).then(
      ({ header }) => header,
    )
    const file = await openFile(join(ORACLE, `${name}.f16.gguf`))
    const kept = [...tensors.values()].filter((tensor) => !drop(tensor.name))
    const raw: RawTensor[] = []
    for (const tensor of kept) {
      const data = await file.read(tensor.offset, tensor.bytes)
      raw.push({ name: tensor.name, sizes: tensor.shape.toReversed(), type: tensor.format.type, data })
    }
    await file.close()
    const numbers = [...metadata.entries()].flatMap(([key, value]): [string, Value][] => {
      if (typeof value === 'number') return [[key, { type: Number.isInteger(value) ? 'u32' : 'f32', value }]]
      return typeof value === 'string' && !key.startsWith('tokenizer') ? [[key, { type: 'string', value }]] : []
    })
    const extra = Object.entries(keys).map(([key, on]): [string, Value] => [key, { type: 'bool', value: Number(on) }])
    const bytes = writeGguf({
      keys: [...numbers.filter(([key]) => !key.startsWith('tokenizer')), ...extra],
      tensors: raw,
    })
    return openGguf(async () => memorySource('x.gguf', bytes)).then(
      () => 'accepted',
      (error: unknown) => (error instanceof InputError ? error.message : String(error)),
    )
  }

  it('half of the factors of longrope', async () => {
    expect(await refusal('phi3', () => false)).toBe('accepted')
    expect(await refusal('phi3', (name) => name.startsWith('rope_factors_long'))).toMatch(/rope_factors_long.* missing/)
  })

  it('a Granite that does not turn its heads', async () => {
    const key = 'granite.rope.scaling.finetuned'
    expect(await refusal('granite', () => false, { [key]: true })).toBe('accepted')
    expect(await refusal('granite', () => false, { [key]: false })).toMatch(/without rotary embeddings/)
  })
})
