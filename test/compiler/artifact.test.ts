// The artifact as bytes: the same from the same input, in full or not at all, and checked again when it is opened.
import { createHash } from 'node:crypto'
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import { compileAdapter } from '../../compiler/compile-adapter.ts'
import { AdapterEntrySchema, type Manifest, ManifestSchema } from '../../compiler/contract.ts'
import type { ProblemCode } from '../../compiler/errors.ts'
import { readAdapter } from '../../compiler/read-adapter.ts'
import { readArtifact, verifyFiles } from '../../compiler/read-artifact.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { expectRefusal } from './failing.ts'
import {
  ADAPTER_FILES,
  BASE_FILES,
  type Files,
  loadFiles,
  memoryFolder,
  memoryOut,
  memorySource,
  TINY,
} from './folders.ts'
import { editRaw, float32, parseRaw, type RawTensor, writeRaw } from './safetensors-file.ts'

let base: Record<string, Uint8Array>
let a: Record<string, Uint8Array>
let b: Record<string, Uint8Array>
let routed: { files: Map<string, Uint8Array>; id: string; manifest: Manifest }

beforeAll(async () => {
  base = await loadFiles(join(TINY, 'base'), BASE_FILES)
  a = await loadFiles(join(TINY, 'a'), ADAPTER_FILES)
  b = await loadFiles(join(TINY, 'b'), ADAPTER_FILES)
  routed = await make('routed', ['a', 'b'])
})

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

async function make(target: 'routed' | 'merged', names: readonly string[], files: Files = base, weight?: number) {
  const out = memoryOut()
  const folders: Record<string, Files> = { a, b }
  const adapters = names.map((name) => ({
    name,
    folder: memoryFolder(name, folders[name] as Files),
    ...(weight === undefined ? {} : { weight }),
  }))
  const result = await compile({ base: memoryFolder('base', files), adapters, target }, out, nodeHost)
  return { files: out.files, ...result }
}

describe('compile', () => {
  it('gives the same bytes twice, whatever the order of the adapters', async () => {
    const again = await make('routed', ['b', 'a'])
    expect(again.id).toBe(routed.id)
    expect(again.files).toEqual(routed.files)
  })

  it('gives the same bytes from another folder', async () => {
    const elsewhere = await mkdtemp(join(tmpdir(), 'sidepath-elsewhere-'))
    try {
      await cp(TINY, elsewhere, { recursive: true })
      const out = memoryOut()
      const adapters = ['a', 'b'].map((name) => ({ name, folder: openFolder(join(elsewhere, name)) }))
      const { id } = await compile(
        { base: openFolder(join(elsewhere, 'base')), adapters, target: 'routed' },
        out,
        nodeHost,
      )
      expect(id).toBe(routed.id)
      expect(out.files).toEqual(routed.files)
    } finally {
      await rm(elsewhere, { recursive: true })
    }
  })

  it('has the SHA-256 of its manifest as id, and lists every other file with its digest', () => {
    expect(sha256(routed.files.get('manifest.json')!)).toBe(routed.id)
    const others = [...routed.files].filter(([path]) => path !== 'manifest.json')
    expect(routed.manifest.files).toEqual(
      others.map(([path, bytes]) => ({ path, bytes: bytes.length, sha256: sha256(bytes) })),
    )
  })

  it('writes the manifest last', () => {
    expect([...routed.files.keys()].at(-1)).toBe('manifest.json')
  })

  it('writes a manifest that its schema accepts and that is canonical', () => {
    const text = new TextDecoder().decode(routed.files.get('manifest.json')!)
    expect(ManifestSchema.parse(JSON.parse(text))).toEqual(routed.manifest)
    expect(text).not.toMatch(/\s/)
  })

  it('accounts for every tensor of every adapter, once', () => {
    for (const [name, files] of Object.entries({ a, b })) {
      const tensors = [...parseRaw(files['adapter_model.safetensors']!).keys()]
      const covered = routed.manifest.coverage.filter(({ adapter }) => adapter === name).map(({ tensor }) => tensor)
      expect(covered.toSorted()).toEqual(tensors.toSorted())
    }
  })

  it('leaves the base as it was', async () => {
    for (const name of BASE_FILES) expect(await readFile(join(TINY, 'base', name))).toEqual(Buffer.from(base[name]!))
  })

  it('writes linears as the base has them, transposed, bit for bit', () => {
    const data = routed.files.get('model.onnx_data')!
    const [embedding] = [...parseRaw(base['model.safetensors']!)].filter(
      ([name]) => name === 'model.embed_tokens.weight',
    )
    expect(Buffer.from(data.subarray(0, embedding![1].data.length)).equals(embedding![1].data)).toBe(true)
    const q = parseRaw(base['model.safetensors']!).get('model.layers.0.self_attn.q_proj.weight')!
    const [out = 0, inSize = 0] = q.shape
    const start = Math.ceil(embedding![1].data.length / 64) * 64
    const stored = new Float32Array(data.slice(start, start + q.data.length).buffer)
    const original = new Float32Array(q.data.slice().buffer)
    for (let o = 0; o < out; o += 1) {
      for (let i = 0; i < inSize; i += 1) expect(stored[i * out + o]).toBe(original[o * inSize + i])
    }
  })

  it('shares one data file, and the same bytes, between routed artifacts and the plain base', async () => {
    const plain = await make('merged', [])
    expect(plain.files.get('model.onnx_data')).toEqual(routed.files.get('model.onnx_data'))
    expect(plain.manifest.bank).toEqual([])
  })

  it('gives a merged adapter the digest that it would have had routed', async () => {
    const merged = await make('merged', ['a', 'b'], base, 0.25)
    expect(merged.manifest.adapters.map(({ digest }) => digest)).toEqual(
      routed.manifest.adapters.map(({ digest }) => digest),
    )
    expect(merged.manifest.adapters.every(({ file }) => file === undefined)).toBe(true)
    expect(merged.manifest.adapters[0]?.modules['model.layers.0.self_attn.q_proj']?.scaling).toBe((12 / 5) * 0.25)
  })

  it('reports progress up to the last byte of each stage', async () => {
    const last = new Map<string, [number, number]>()
    await compile(
      { base: memoryFolder('base', base), adapters: [], target: 'routed' },
      memoryOut(),
      nodeHost,
      (step) => {
        expect(step.doneBytes).toBeGreaterThan(last.get(step.stage)?.[0] ?? 0)
        last.set(step.stage, [step.doneBytes, step.totalBytes])
      },
    )
    expect([...last.keys()]).toEqual(['read base', 'write weights'])
    for (const [done, total] of last.values()) expect(done).toBe(total)
  })

  it('copies the tokenizer and the chat template byte for byte, where there are any', async () => {
    const extra = { 'tokenizer.json': ' {"a": 1}\n', 'chat_template.jinja': '{{ x }}', 'README.md': 'no' }
    const { files } = await make('routed', [], { ...base, ...extra })
    expect(new TextDecoder().decode(files.get('tokenizer.json')!)).toBe(extra['tokenizer.json'])
    expect(new TextDecoder().decode(files.get('chat_template.jinja')!)).toBe(extra['chat_template.jinja'])
    expect(files.has('README.md')).toBe(false)
    expect(files.has('tokenizer_config.json')).toBe(false)
  })

  it.each(['routed', 'merged'] as const)('writes nothing where an input is refused (%s)', async (target) => {
    const out = memoryOut()
    const broken = {
      ...base,
      'model.safetensors': editRaw(base['model.safetensors']!, (tensors) => {
        tensors.get('lm_head.weight')!.data.set(float32([Number.NaN]))
      }),
    }
    const input = { base: memoryFolder('base', broken), adapters: [], target }
    await expectRefusal(() => compile(input, out, nodeHost), 'tensor-not-finite', 'lm_head.weight')
    expect(out.files.size).toBe(0)
  })
})

describe('a compiled adapter', () => {
  const compiled = (name: string) => {
    const entry = routed.manifest.adapters.find((adapter) => adapter.name === name)!
    return { entry, bytes: routed.files.get(entry.file!)! }
  }
  const read = (bytes: Uint8Array, options?: { maxRank: number }) =>
    readAdapter(memorySource('x.safetensors', bytes), routed.manifest, options)

  it('is named after its digest', () => {
    for (const name of ['a', 'b']) {
      const { entry, bytes } = compiled(name)
      expect(entry.digest).toBe(sha256(bytes))
      expect(entry.file).toBe(`adapters/${entry.digest}.safetensors`)
    }
  })

  it.each([
    ['a', 'model.layers.0.self_attn.q_proj', 5, 12 / 5],
    ['b', 'model.layers.0.mlp.down_proj', 3, 7 / Math.sqrt(3)],
    ['b', 'model.layers.1.self_attn.q_proj', 2, 5 / Math.sqrt(2)],
  ])('of %s holds s·B for %s, the scaling in it exactly once and rounded once', async (name, module, r, scaling) => {
    const peft = parseRaw(({ a, b } as Record<string, Files>)[name]!['adapter_model.safetensors'] as Uint8Array)
    const floats = (factor: string) =>
      new Float32Array(peft.get(`base_model.model.${module}.${factor}.weight`)!.data.slice().buffer)
    const [A, B] = [floats('lora_A'), floats('lora_B')]
    const found = (await read(compiled(name).bytes)).modules.get(module)!
    expect(found.r).toBe(r)
    const [inSize, out] = [A.length / r, B.length / r]
    for (let k = 0; k < r; k += 1) {
      for (let i = 0; i < inSize; i += 1) expect(found.A[i * r + k]).toBe(A[k * inSize + i])
      for (let o = 0; o < out; o += 1) expect(found.B[k * out + o]).toBe(Math.fround(scaling * B[o * r + k]!))
    }
  })

  it('can be compiled alone, against the base or a manifest, to the same bytes', async () => {
    for (const against of [memoryFolder('base', base), routed.manifest]) {
      const out = memoryOut()
      const entry = await compileAdapter({ name: 'b', folder: memoryFolder('b', b), base: against }, out, nodeHost)
      expect(entry).toEqual(compiled('b').entry)
      expect(AdapterEntrySchema.parse(entry)).toEqual(entry)
      expect([...out.files]).toEqual([[entry.file, compiled('b').bytes]])
    }
  })

  it('is refused, and nothing written, where its PEFT folder is', async () => {
    const out = memoryOut()
    const folder = memoryFolder('b', { ...b, 'adapter_config.json': '{"peft_type":"LORA","r":9}' })
    await expect(compileAdapter({ name: 'b', folder, base: routed.manifest }, out, nodeHost)).rejects.toThrow(
      'says r=9',
    )
    expect(out.files.size).toBe(0)
  })

  const metadata = (change: Record<string, string> = {}) => ({
    'sidepath.schema': 'sidepath.adapter/1',
    'sidepath.base': routed.manifest.base.digest,
    'sidepath.name': 'x',
    ...change,
  })
  const Q = 'model.layers.0.self_attn.q_proj'
  const pair = (): [[string, RawTensor], [string, RawTensor]] => [
    [`${Q}.lora_A`, { dtype: 'F32', shape: [48, 1], data: new Uint8Array(48 * 4) }],
    [`${Q}.lora_B`, { dtype: 'F32', shape: [1, 48], data: new Uint8Array(48 * 4) }],
  ]
  const craft = (change: (tensors: Map<string, RawTensor>) => unknown = () => {}, meta = metadata()): Uint8Array => {
    const tensors = new Map(pair())
    change(tensors)
    return writeRaw(tensors, meta)
  }

  it('is accepted from other hands where it keeps every promise', async () => {
    const adapter = await read(craft())
    expect([adapter.name, adapter.r, [...adapter.modules.keys()]]).toEqual(['x', 1, [Q]])
  })

  const broken: [string, ProblemCode, () => Uint8Array][] = [
    ['no schema', 'adapter-format', () => writeRaw(new Map(pair()))],
    ['another schema', 'adapter-format', () => craft(undefined, metadata({ 'sidepath.schema': 'sidepath.adapter/2' }))],
    ['another base', 'adapter-base', () => craft(undefined, metadata({ 'sidepath.base': '0'.repeat(64) }))],
    ['a name that is none', 'adapter-name', () => craft(undefined, metadata({ 'sidepath.name': '../x' }))],
    ['PEFT’s own file', 'adapter-format', () => a['adapter_model.safetensors']!],
    ['one factor only', 'adapter-pair', () => craft((tensors) => tensors.delete(`${Q}.lora_B`))],
    [
      'a tensor without a place',
      'tensor-unknown',
      () => craft((tensors) => tensors.set('lm_head.lora_A', pair()[0][1])),
    ],
    ['no tensors', 'tensor-missing', () => craft((tensors) => tensors.clear())],
    [
      'halves',
      'tensor-dtype',
      () =>
        craft((tensors) => {
          tensors.set(`${Q}.lora_A`, { dtype: 'F16', shape: [48, 1], data: new Uint8Array(96) })
        }),
    ],
    [
      'factors in PEFT’s orientation',
      'tensor-shape',
      () =>
        craft((tensors) => {
          tensors.get(`${Q}.lora_A`)!.shape = [1, 48]
        }),
    ],
    [
      'ranks that differ between the factors',
      'tensor-shape',
      () =>
        craft((tensors) => {
          tensors.set(`${Q}.lora_B`, { dtype: 'F32', shape: [2, 48], data: new Uint8Array(384) })
        }),
    ],
    [
      'rank 0',
      'tensor-shape',
      () =>
        craft((tensors) => {
          tensors.set(`${Q}.lora_A`, { dtype: 'F32', shape: [48, 0], data: new Uint8Array() })
          tensors.set(`${Q}.lora_B`, { dtype: 'F32', shape: [0, 48], data: new Uint8Array() })
        }),
    ],
    [
      'three dimensions',
      'tensor-shape',
      () =>
        craft((tensors) => {
          tensors.get(`${Q}.lora_A`)!.shape = [48, 1, 1]
        }),
    ],
    [
      'NaN',
      'tensor-not-finite',
      () =>
        craft((tensors) => {
          tensors.get(`${Q}.lora_B`)!.data.set(float32([Number.NaN]), 8)
        }),
    ],
  ]
  it.each(broken)('is refused with %s', async (_, code, bytes) => {
    await expectRefusal(() => read(bytes()), code, 'x.safetensors')
  })

  it('is refused above the rank of the bank, at the limit accepted', async () => {
    const { bytes } = compiled('a')
    await expect(read(bytes, { maxRank: 5 })).resolves.toBeDefined()
    await expect(read(bytes, { maxRank: 4 })).rejects.toThrow('has rank 5; the bank holds ranks up to 4')
  })
})

describe('readArtifact', () => {
  const open = (change: (files: Map<string, Uint8Array>) => void = () => {}) => {
    const files = new Map(routed.files)
    change(files)
    return readArtifact(memoryFolder('artifact', Object.fromEntries(files)), nodeHost)
  }
  const editManifest =
    (change: (text: string) => string): ((files: Map<string, Uint8Array>) => void) =>
    (files) => {
      files.set(
        'manifest.json',
        new TextEncoder().encode(change(new TextDecoder().decode(files.get('manifest.json')!))),
      )
    }

  it('gives id and manifest', async () => {
    expect(await open()).toEqual({ id: routed.id, manifest: routed.manifest })
  })

  type Change = (files: Map<string, Uint8Array>) => void
  const touched: [string, ProblemCode, Change][] = [
    ['no manifest', 'file-missing', (files) => void files.delete('manifest.json')],
    ['a file missing', 'artifact-invalid', (files) => void files.delete('engine.onnx')],
    ['a file of another size', 'artifact-invalid', (files) => void files.set('engine.onnx', new Uint8Array(3))],
    ['text that is no JSON', 'artifact-invalid', editManifest((text) => text.slice(1))],
    ['whitespace', 'artifact-invalid', editManifest((text) => `${text}\n`)],
    ['another schema', 'artifact-invalid', editManifest((text) => text.replace('artifact/1', 'artifact/2'))],
    ['a field too many', 'artifact-invalid', editManifest((text) => text.replace('{', '{"a":1,'))],
    [
      'a path that leaves the folder',
      'artifact-invalid',
      editManifest((text) => text.replaceAll('engine.onnx', '../ngine.onnx')),
    ],
  ]
  it.each(touched)('refuses %s', async (_, code, change) => {
    await expectRefusal(() => open(change), code, 'artifact')
  })

  it('does not read the files; verifyFiles does', async () => {
    const files = new Map(routed.files)
    const data = files.get('model.onnx_data')!.slice()
    data[1000]! ^= 1
    files.set('model.onnx_data', data)
    const folder = memoryFolder('artifact', Object.fromEntries(files))
    const { manifest } = await readArtifact(folder, nodeHost)
    await expectRefusal(() => verifyFiles(folder, manifest, nodeHost), 'artifact-invalid', '"model.onnx_data"')
    await verifyFiles(memoryFolder('artifact', Object.fromEntries(routed.files)), manifest, nodeHost)
  })
})
