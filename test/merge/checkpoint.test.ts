// Whole folders: what a merge changes, what it leaves alone, what it refuses, and that nothing else decides its bytes.
import { describe, expect, it } from 'vitest'
import type { AdapterChanges, Change } from '../../compiler/adapter/change.ts'
import type { ByteSource, Folder } from '../../compiler/host.ts'
import { inlineLanes } from '../../compiler/merge/inline-lanes.ts'
import type { Lanes, OpenLanes } from '../../compiler/merge/matrix.ts'
import { mergeCheckpoint } from '../../compiler/merge/merge-checkpoint.ts'
import { openBase } from '../../compiler/merge/open-base.ts'
import { negate } from '../../compiler/merge/unmerge.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { wasmLanes } from '../../runtime/wasm-lanes.ts'
import { expectRefusal, refusal } from '../compiler/failing.ts'
import { memoryFolder, memoryOut } from '../compiler/folders.ts'
import { seeded } from '../compiler/random.ts'
import { adapter, encodeRaw, lowRank, mergeInMemory, type RawTensor, randomTensor, readRaw } from './checkpoints.ts'

const FIRST = 'model-00001-of-00002.safetensors'
const SECOND = 'model-00002-of-00002.safetensors'
const INDEX = 'model.safetensors.index.json'

const random = seeded(11)
const first = {
  'z.weight': randomTensor('BF16', [300, 70], random),
  steps: { dtype: 'I64', shape: [], bytes: new Uint8Array(8).fill(7) },
  'a.weight': randomTensor('F16', [33, 41], random),
  empty: { dtype: 'F32', shape: [0, 4], bytes: new Uint8Array() },
} satisfies Record<string, RawTensor>
const second = {
  'c.weight': randomTensor('F32', [20, 9], random),
  'norm.weight': randomTensor('BF16', [70], random),
} satisfies Record<string, RawTensor>
const weightMap = Object.fromEntries([
  ...Object.keys(first).map((name) => [name, FIRST]),
  ...Object.keys(second).map((name) => [name, SECOND]),
])
const sharded = {
  'config.json': '{"model_type": "other", "x": 1e-05}',
  'tokenizer.json': '{}',
  'model.gguf': 'weights of another kind',
  [FIRST]: encodeRaw(first, { format: 'pt', note: 'keep me' }),
  [SECOND]: encodeRaw(second),
  [INDEX]: JSON.stringify({ metadata: { total_size: 1 }, weight_map: weightMap }),
}

const zBy = (name: string, weight: number, seed: number) =>
  adapter(name, weight, [lowRank('z.weight', { r: 3, in: 70, out: 300 }, seeded(seed))])
const both = (): AdapterChanges[] => [
  adapter('b', 0.5, [
    lowRank('z.weight', { r: 5, in: 70, out: 300 }, seeded(1)),
    lowRank('c.weight', { r: 2, in: 9, out: 20 }, seeded(2)),
  ]),
  zBy('a', -1, 3),
]

async function expectSameExcept(before: Uint8Array, after: Uint8Array, changed: readonly string[]): Promise<void> {
  const [old, now] = [await readRaw(before), await readRaw(after)]
  expect([...now.keys()]).toEqual([...old.keys()])
  for (const [name, tensor] of old) {
    const twin = now.get(name)!
    expect([twin.dtype, twin.shape, twin.offset]).toEqual([tensor.dtype, tensor.shape, tensor.offset])
    const bytes = await Promise.all([tensor, twin].map(({ source, offset, bytes }) => source.read(offset, bytes)))
    if (changed.includes(name)) expect(bytes[0], name).not.toEqual(bytes[1])
    else expect(bytes[0], name).toEqual(bytes[1])
  }
}

const turns = seeded(12)
async function pause(): Promise<void> {
  for (let left = Math.floor(turns() * 8); left > 0; left -= 1) await new Promise((resolve) => setImmediate(resolve))
}

/** Reads that end in any order. */
function slowly(folder: Folder): Folder {
  return {
    name: folder.name,
    async open(path) {
      const source = await folder.open(path)
      if (source === undefined) return undefined
      const read: ByteSource['read'] = async (offset, length) => {
        await pause()
        return source.read(offset, length)
      }
      return { ...source, read }
    },
  }
}

/** Four lanes that begin, and so end, in any order. */
const slowLanes: OpenLanes = {
  lanes: 4,
  async open(assemble, pages) {
    const lanes = await inlineLanes.open(assemble, pages)
    const run: Lanes['run'] = async (name, args) => {
      await pause()
      return lanes.run(name, args)
    }
    return { ...lanes, run }
  },
}

describe('a merge', () => {
  it('writes the same files, with the same headers, and changes only what an adapter names', async () => {
    const { files, report } = await mergeInMemory(sharded, both())
    expect([...files.keys()].sort()).toEqual([FIRST, SECOND, INDEX, 'config.json', 'tokenizer.json'].sort())
    await expectSameExcept(sharded[FIRST], files.get(FIRST)!, ['z.weight'])
    await expectSameExcept(sharded[SECOND], files.get(SECOND)!, ['c.weight'])
    for (const name of ['config.json', 'tokenizer.json', INDEX] as const) {
      expect(Buffer.from(files.get(name)!).toString()).toBe(sharded[name])
    }
    const header = sharded[FIRST].subarray(0, 8 + Number(new DataView(sharded[FIRST].buffer).getBigUint64(0, true)))
    expect(files.get(FIRST)!.subarray(0, header.length)).toEqual(header)
    expect(report).toMatchObject({ tensors: 6, changed: ['z.weight', 'c.weight'], leftOut: ['model.gguf'] })
    expect(report.bytes).toBe(sharded[FIRST].length + sharded[SECOND].length)
  })

  it('gives the same bytes in any order of the adapters, with any number of lanes', async () => {
    const { files } = await mergeInMemory(sharded, both())
    for (const lanes of [inlineLanes, wasmLanes(1), wasmLanes(2), wasmLanes(5)]) {
      for (const adapters of [both(), both().reverse()]) {
        expect((await mergeInMemory(sharded, adapters, lanes)).files).toEqual(files)
      }
    }
  })

  it('of many small tensors gives each its own factors, in whatever order blocks are read and computed', async () => {
    const names = Array.from({ length: 24 }, (_, index) => `layers.${index}`)
    const tensors = names.map((name) => [name, randomTensor('BF16', [16, 24], random)] as const)
    const changes = names.map((name, seed) => lowRank(name, { r: 2, in: 24, out: 16 }, seeded(seed)))
    const all = { 'model.safetensors': encodeRaw(Object.fromEntries(tensors)) }
    const out = memoryOut()
    const base = await openBase(slowly(memoryFolder('base', all)))
    await mergeCheckpoint(base, [adapter('a', 1, changes)], [], out, slowLanes)
    const after = await readRaw(out.files.get('model.safetensors')!)
    for (const [index, [name, tensor]] of tensors.entries()) {
      const one = await mergeInMemory({ 'model.safetensors': encodeRaw({ [name]: tensor }) }, [
        adapter('a', 1, [changes[index]!]),
      ])
      const alone = (await readRaw(one.files.get('model.safetensors')!)).get(name)!
      const { source, offset, bytes } = after.get(name)!
      expect(await source.read(offset, bytes), name).toEqual(await alone.source.read(alone.offset, bytes))
    }
  })

  it('of no adapter is a copy', async () => {
    const { files } = await mergeInMemory(sharded, [])
    expect(files.get(FIRST)).toEqual(sharded[FIRST])
  })

  it('of an adapter and its opposite comes near the base, and says what it cannot undo', async () => {
    const merged = await mergeInMemory(sharded, [zBy('a', 1, 4)])
    const { files } = await mergeInMemory({ ...sharded, [FIRST]: merged.files.get(FIRST)! }, negate([zBy('a', 1, 4)]))
    const values = async (file: Uint8Array) => readFloats((await readRaw(file)).get('z.weight') as FloatTensorSource)
    const [before, between, after] = [
      await values(sharded[FIRST]),
      await values(merged.files.get(FIRST)!),
      await values(files.get(FIRST)!),
    ]
    after.forEach((value, i) => {
      // Two roundings, each half a unit (2⁻⁸) of what was rounded.
      const bound = (Math.abs(between[i]!) + Math.abs(before[i]!)) * 2 ** -8
      expect(Math.abs(value - before[i]!)).toBeLessThanOrEqual(bound)
    })
    const dora = lowRank('z.weight', { r: 1, in: 70, out: 300 }, seeded(1), {
      magnitude: new Float32Array(300).fill(1),
    })
    const rows: Change = { kind: 'rows', tensor: 'a.weight', rows: [1], value: new Float32Array(41), sources: [] }
    const { problems } = await refusal(async () => negate([adapter('x', 1, [dora, rows])]))
    expect(problems.map(({ code }) => code)).toEqual(['adapter-option', 'adapter-option'])
  })
})

describe('a merge is refused', () => {
  const nothingWritten = async (
    adapters: AdapterChanges[],
    ...expected: Parameters<typeof expectRefusal> extends [unknown, ...infer R] ? R : never
  ) => {
    const out = memoryOut()
    await expectRefusal(() => mergeInMemory(sharded, adapters, inlineLanes, out), ...expected)
    expect(out.files.size).toBe(0)
  }
  const replace = async (tensor: string): Promise<Change> => ({
    kind: 'replace',
    tensor,
    value: (await readRaw(sharded[FIRST])).get('a.weight')!,
    sources: ['s'],
  })

  it('where a tensor is not in the base', async () => {
    const change = lowRank('q.weight', { r: 1, in: 9, out: 20 }, random)
    await nothingWritten([adapter('a', 1, [change])], 'adapter-base', '"a"', 'q.weight')
  })

  it('where the base has its head in its embedding', async () => {
    const change = lowRank('lm_head.weight', { r: 1, in: 9, out: 20 }, random)
    await nothingWritten([adapter('a', 1, [change])], 'adapter-target', 'lm_head.weight', 'untie')
  })

  it('where shapes differ, transposed ones included', async () => {
    const square = lowRank('c.weight', { r: 1, in: 20, out: 9 }, random)
    await nothingWritten([adapter('a', 1, [square])], 'adapter-base', 'c.weight', '20 → 9')
    const turned = lowRank('c.weight', { r: 1, in: 9, out: 20 }, random, { transposed: true })
    await nothingWritten([adapter('a', 1, [turned])], 'adapter-base', 'c.weight')
  })

  it('where the tensor holds no floats', async () => {
    const change: Change = { kind: 'add', tensor: 'steps', value: new Float32Array(1), scaling: 1, sources: [] }
    await nothingWritten([adapter('a', 1, [change])], 'tensor-dtype', 'I64')
  })

  it('where two adapters replace one tensor, or one replaces what another adds to', async () => {
    const one = adapter('a', 1, [await replace('a.weight')])
    await nothingWritten([one, { ...one, name: 'b' }], 'adapter-target', '"a"', '"b"', 'a.weight')
    const adds = adapter('b', 1, [lowRank('a.weight', { r: 1, in: 41, out: 33 }, random)])
    await nothingWritten([adds, one], 'adapter-target', 'a.weight')
  })

  it('where a weight would be part of a replacement', async () => {
    await nothingWritten([adapter('a', 0.5, [await replace('a.weight')])], 'adapter-weight', '0.5')
  })

  it('where DoRA has a weight, or company', async () => {
    const magnitude = new Float32Array(300).fill(1)
    const dora = lowRank('z.weight', { r: 1, in: 70, out: 300 }, random, { magnitude })
    await nothingWritten([adapter('a', 0.5, [dora])], 'adapter-weight', 'DoRA')
    await nothingWritten([adapter('a', 1, [dora]), zBy('b', 1, 1)], 'adapter-target', 'DoRA')
  })

  it('where names or weights of adapters are no use', async () => {
    await nothingWritten([zBy('a', 1, 1), zBy('a', 1, 2)], 'adapter-name', 'twice')
    await nothingWritten([zBy('A/b', 1, 1)], 'adapter-name')
    for (const weight of [0, Number.NaN, Number.POSITIVE_INFINITY]) {
      await nothingWritten([zBy('a', weight, 1)], 'adapter-weight')
    }
  })

  it('with every problem at once', async () => {
    const wrong = adapter('a', 1, [
      lowRank('q.weight', { r: 1, in: 9, out: 20 }, random),
      lowRank('c.weight', { r: 1, in: 20, out: 9 }, random),
    ])
    const { problems } = await refusal(() => mergeInMemory(sharded, [wrong, zBy('b', 0, 1)]))
    expect(problems.length).toBe(3)
  })
})

describe.each(['F32', 'F16', 'BF16'] as const)('in %s', (dtype) => {
  const largest = { F32: 2 ** 127, F16: 32_768, BF16: 2 ** 127 }[dtype]
  const file = encodeRaw({ w: randomTensor(dtype, [40, 40], seeded(3)), v: randomTensor(dtype, [2, 2], seeded(3)) })
  const ones = (tensor: string, size: number, value: number): Change => ({
    ...lowRank(tensor, { r: 1, in: size, out: size }, random),
    A: new Float32Array(size).fill(1),
    B: Float32Array.from({ length: size }, (_, i) => (i === size - 1 ? value : 0)),
    scaling: 1,
  })

  it.each([
    ['w', 40],
    ['v', 2],
  ] as const)('a sum that overflows names the tensor and the adapters: %s', async (tensor, size) => {
    const adapters = [
      adapter('up', 1, [ones(tensor, size, largest)]),
      adapter('more', 1, [ones(tensor, size, largest)]),
    ]
    const merge = (adapters: AdapterChanges[]) => mergeInMemory({ 'model.safetensors': file }, adapters)
    await expectRefusal(() => merge(adapters), 'merge-overflow', '"more", "up"', `"${tensor}"`, dtype)
    await merge(adapters.slice(1))
  })

  it('a NaN of the base is called that', async () => {
    const before = encodeRaw({
      w: { dtype, shape: [8, 8], bytes: new Uint8Array(dtype === 'F32' ? 256 : 128).fill(0xff) },
    })
    const change = lowRank('w', { r: 1, in: 8, out: 8 }, random)
    const merge = () => mergeInMemory({ 'model.safetensors': before }, [adapter('a', 1, [change])])
    await expectRefusal(merge, 'tensor-not-finite', 'the base')
  })
})

describe('a base whose head is its embedding', () => {
  const embedding = randomTensor('BF16', [30, 12], seeded(9))
  const weights = { 'model.norm.weight': randomTensor('BF16', [12], seeded(8)), 'model.embed_tokens.weight': embedding }
  const config = '{\n  "architectures": ["LlamaForCausalLM"],\n  "rms": 1e-05,\n  "tie_word_embeddings": true\n}\n'
  const files = { 'config.json': config, 'model.safetensors': encodeRaw(weights, { format: 'pt' }) }
  const change = lowRank('model.embed_tokens.weight', { r: 2, in: 30, out: 12 }, seeded(7), { transposed: true })
  const adapters = [adapter('a', 1, [change], ['model.embed_tokens.weight'])]

  it('gets a head of its own, with the bytes that the embedding had', async () => {
    const { files: written, report } = await mergeInMemory(files, adapters)
    const after = await readRaw(written.get('model.safetensors')!)
    expect([...after.keys()]).toEqual(['model.norm.weight', 'model.embed_tokens.weight', 'lm_head.weight'])
    const head = after.get('lm_head.weight')!
    expect(head).toMatchObject({ dtype: 'BF16', shape: [30, 12] })
    expect(await head.source.read(head.offset, head.bytes)).toEqual(embedding.bytes)
    expect(Buffer.from(written.get('config.json')!).toString()).toBe(config.replace('true', 'false'))
    expect(report.untied).toBe('lm_head.weight')
  })

  it('gets one in the shard of the embedding, and in the index', async () => {
    const index = { metadata: {}, weight_map: { 'model.norm.weight': FIRST, 'model.embed_tokens.weight': SECOND } }
    const { files: written } = await mergeInMemory(
      {
        'config.json': config.replace(/,\n.*true/, ''),
        [FIRST]: encodeRaw({ 'model.norm.weight': weights['model.norm.weight'] }),
        [SECOND]: encodeRaw({ 'model.embed_tokens.weight': embedding }),
        [INDEX]: JSON.stringify(index),
      },
      adapters,
    )
    expect([...(await readRaw(written.get(SECOND)!)).keys()]).toEqual(['model.embed_tokens.weight', 'lm_head.weight'])
    expect(JSON.parse(Buffer.from(written.get(INDEX)!).toString()).weight_map['lm_head.weight']).toBe(SECOND)
    expect(JSON.parse(Buffer.from(written.get('config.json')!).toString())).toMatchObject({
      tie_word_embeddings: false,
    })
  })

  it('stays tied where the adapter changes no embedding, or the config says that it is not', async () => {
    const norm: Change = {
      kind: 'add',
      tensor: 'model.norm.weight',
      value: new Float32Array(12).fill(1),
      scaling: 1,
      sources: [],
    }
    const { files: written, report } = await mergeInMemory(files, [adapter('a', 1, [norm])])
    expect(Buffer.from(written.get('config.json')!).toString()).toBe(config)
    expect(report.untied).toBeUndefined()
    const untied = { ...files, 'config.json': config.replace('true', 'false') }
    expect((await mergeInMemory(untied, adapters)).report.untied).toBeUndefined()
  })

  it('is refused where it stores a head that loading ignores', async () => {
    const stored = encodeRaw({ ...weights, 'lm_head.weight': embedding })
    const merge = (changes: AdapterChanges[]) => mergeInMemory({ ...files, 'model.safetensors': stored }, changes)
    await expectRefusal(() => merge(adapters), 'adapter-target', 'lm_head.weight')
    const head = lowRank('lm_head.weight', { r: 1, in: 12, out: 30 }, random)
    await expectRefusal(() => merge([adapter('a', 1, [head])]), 'adapter-target', 'lm_head.weight')
  })
})

describe('the lanes', () => {
  it('are closed after a merge, and after one that fails', async () => {
    let open = 0
    const counting: OpenLanes = {
      lanes: 1,
      async open(assemble, pages) {
        const lanes = await inlineLanes.open(assemble, pages)
        open += 1
        const close = async () => {
          open -= 1
        }
        return { ...lanes, close }
      },
    }
    await mergeInMemory(sharded, both(), counting)
    expect(open).toBe(0)
    const overflow = { ...zBy('a', 1, 1), weight: 1e39 }
    await refusal(() => mergeInMemory(sharded, [overflow], counting))
    expect(open).toBe(0)
  })

  it('pass on an error of their own', async () => {
    const failing: OpenLanes = {
      lanes: 2,
      async open(assemble, pages) {
        const lanes = await inlineLanes.open(assemble, pages)
        return { ...lanes, run: () => Promise.reject(new Error('a thread died')) }
      },
    }
    await expect(mergeInMemory(sharded, both(), failing)).rejects.toThrow('a thread died')
  })
})
