// Inspection: each kind of folder and file is known by its content, and says what it holds.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { inspectFile, inspectFolder } from '../../compiler/inspect/inspect.ts'
import type { Inspection } from '../../compiler/inspect/inspection.ts'
import { exportOnnxAdapter } from '../../compiler/onnx-adapter/export.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { expectRefusal } from '../compiler/failing.ts'
import * as folders from '../compiler/folders.ts'
import { FUZZ_SEED, seeded } from '../compiler/random.ts'
import { float32, writeRaw } from '../compiler/safetensors-file.ts'
import { TINY_KEYS, tinyTensors, writeGguf } from '../gguf/gguf-file.ts'
import { external, model, node, value } from './onnx-bytes.ts'

const { TINY, loadFiles } = folders

let manifest: Manifest
let id: string
let artifact: Record<string, Uint8Array>
beforeAll(async () => {
  const out = folders.memoryOut()
  const adapters = ['a', 'b'].map((name) => ({ name, folder: openFolder(join(TINY, name)) }))
  const made = await compile({ base: openFolder(join(TINY, 'base')), adapters, target: 'routed' }, out, nodeHost)
  manifest = made.manifest
  id = made.id
  artifact = Object.fromEntries(out.files)
})

const folder = (files: folders.Files) => inspectFolder(folders.memoryFolder('f', files), nodeHost)
const file = (bytes: Uint8Array, beside: folders.Files = {}) =>
  inspectFile(folders.memorySource('x', bytes), folders.memoryFolder('f', beside))
const table = ({ tables }: Inspection, title: string) => tables[title] ?? []
const adapterFiles = (name: string) => loadFiles(join(TINY, name), folders.ADAPTER_FILES)
const one = { dtype: 'F32', shape: [1], data: float32([1]) }

describe('a folder', () => {
  it('of PEFT: rank, alpha and scaling of each module, by its own pattern', async () => {
    const found = await inspectFolder(openFolder(join(TINY, 'b')), nodeHost)
    expect(found).toMatchObject({ kind: 'adapter', notes: [] })
    const config = { dialect: 'PEFT', r: 3, lora_alpha: 7, use_rslora: 'true', tensors: 12, bytes: 6528 }
    expect(found.facts).toMatchObject(config)
    const modules = Object.fromEntries(table(found, 'modules').map(({ module, ...row }) => [module, row]))
    expect(modules['model.layers.1.self_attn.q_proj']).toMatchObject({ r: 2, alpha: 5, scaling: 5 / Math.sqrt(2) })
    expect(modules['model.layers.0.mlp.down_proj']).toMatchObject({ r: 3, alpha: 7, A: [3, 72], B: [48, 3] })
    expect(table(found, 'tensors')).toHaveLength(12)
  })

  it('of an adapter that a compile would refuse: what is there, and why', async () => {
    const files = await adapterFiles('b')
    const config = JSON.parse(new TextDecoder().decode(files['adapter_config.json']))
    const changed = JSON.stringify({ ...config, velora_config: { x: 1 } })
    const found = await folder({ ...files, 'adapter_config.json': changed })
    expect(found.facts.r).toBe(3)
    expect(found.notes).toEqual([expect.stringContaining('velora_config')])
  })

  it('of an adapter whose config is no JSON: its tensors all the same', async () => {
    const found = await folder({ ...(await adapterFiles('b')), 'adapter_config.json': '{' })
    expect(table(found, 'tensors')).toHaveLength(12)
    expect(found.notes).toEqual([expect.stringContaining('adapter_config.json')])
  })

  it('of MLX', async () => {
    const found = await folder({ 'adapters.safetensors': writeRaw(new Map([['q.lora_a', one]])) })
    expect(found).toMatchObject({ kind: 'adapter', facts: { dialect: 'MLX', tensors: 1 } })
  })

  it('of a pickle is refused with the way out', async () => {
    await expectRefusal(() => folder({ 'adapter_model.bin': 'x' }), 'adapter-format', 'pickle')
  })

  it('of a checkpoint that compiles', async () => {
    const found = await folder(await loadFiles(join(TINY, 'base'), folders.BASE_FILES))
    expect(found).toMatchObject({ kind: 'checkpoint', notes: [] })
    const facts = { model_type: 'llama', num_hidden_layers: 2, tensors: 21, parameters: 44016, compiles: 'yes' }
    expect(found.facts).toMatchObject(facts)
    expect(table(found, 'tensors')[0]).toEqual({ name: 'lm_head.weight', dtype: 'F32', shape: [96, 48], bytes: 18432 })
  })

  it('of a checkpoint of another architecture: its tensors, and why it does not compile', async () => {
    const weights = writeRaw(new Map([['wte.weight', { dtype: 'BF16', shape: [2, 3], data: new Uint8Array(12) }]]))
    const found = await folder({ 'config.json': '{"model_type":"gpt2"}', 'model.safetensors': weights })
    expect(found.facts).toMatchObject({ model_type: 'gpt2', dtypes: ['BF16 × 1'], compiles: 'no' })
    expect(found.notes.length).toBeGreaterThan(0)
  })

  it('of a checkpoint in shards: the file of each tensor', async () => {
    const found = await folder({
      'config.json': '{"model_type":"x"}',
      'model.safetensors.index.json': '{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}',
      'one.safetensors': writeRaw(new Map([['a', one]])),
      'two.safetensors': writeRaw(new Map([['b', one]])),
    })
    expect(found.facts).toMatchObject({ files: 2, tensors: 2 })
    expect(table(found, 'tensors').map(({ name, file: path }) => [name, path])).toEqual([
      ['a', 'one.safetensors'],
      ['b', 'two.safetensors'],
    ])
  })

  it('of a checkpoint whose index lists what no shard has is refused', async () => {
    const files = {
      'model.safetensors.index.json': '{"weight_map":{"a":"one.safetensors","lost":"one.safetensors"}}',
      'one.safetensors': writeRaw(new Map([['a', one]])),
    }
    await expectRefusal(() => folder(files), 'tensor-missing', '"lost"')
  })

  it('of an artifact: the manifest, coverage, and whether it was verified', async () => {
    const found = await folder(artifact)
    expect(found).toMatchObject({ kind: 'artifact', facts: { id, target: 'routed', linears_with_low_rank_path: 14 } })
    expect(found.notes).toEqual([expect.stringContaining('not verified')])
    expect(table(found, 'coverage')).toHaveLength(40)
    expect(table(found, 'files').map(({ path }) => path)).toEqual(manifest.files.map(({ path }) => path))
    expect(table(found, 'adapters').map(({ name, r, tensors }) => [name, r, tensors])).toEqual([
      ['a', 5, 28],
      ['b', 3, 12],
    ])
  })

  it.each([
    [true, 'yes, 2 comparisons'],
    [false, 'no'],
  ])('of an artifact whose verification says ok: %s', async (ok, verified) => {
    const sidecar = JSON.stringify({ artifact: id, ok, comparisons: [{}, {}] })
    expect((await folder({ ...artifact, 'verification.json': sidecar })).facts.verified).toBe(verified)
  })

  it('of an artifact with the verification of another', async () => {
    const found = await folder({ ...artifact, 'verification.json': JSON.stringify({ artifact: 'other', ok: true }) })
    expect(found.facts.verified).toBeUndefined()
    expect(found.notes).toEqual([expect.stringContaining('of another artifact')])
  })

  it('of nothing that is known is refused in one sentence', async () => {
    await expectRefusal(() => folder({ 'README.md': 'x' }), 'file-unknown', 'this is not a PEFT')
  })
})

describe('a file, whatever its name', () => {
  it('of safetensors', async () => {
    const found = await file((await adapterFiles('a'))['adapter_model.safetensors']!)
    expect(found).toMatchObject({ kind: 'safetensors', facts: { tensors: 28 } })
    expect(table(found, 'metadata')).toEqual([{ key: 'format', value: 'pt' }])
  })

  it('of a compiled adapter: its base and its modules', async () => {
    const found = await file(artifact[manifest.adapters[1]!.file!]!)
    expect(found).toMatchObject({ kind: 'compiled-adapter', facts: { adapter: 'b', base: manifest.base.digest } })
    expect(table(found, 'modules')).toContainEqual({ module: 'model.layers.1.self_attn.q_proj', r: 2, in: 48, out: 48 })
  })

  it('of ONNX: inputs, operators, weights, and the file that holds them', async () => {
    const found = await file(artifact['model.onnx']!, artifact)
    expect(found).toMatchObject({ kind: 'onnx', notes: [] })
    expect(found.facts).toMatchObject({ producer: 'sidepath', opsets: ['ai.onnx 21'], subgraphs: 0 })
    expect(table(found, 'inputs')).toContainEqual({ name: 'adapter_slots', type: 'int64', shape: ['batch'] })
    const products = table(found, 'operators').find(({ operator }) => operator === 'MatMul')
    // Seven linears of two layers, three products each; two products of the attention of each layer.
    expect(products).toEqual({ operator: 'MatMul', count: 2 * (7 * 3 + 2) })
    const size = artifact['model.onnx_data']!.length
    expect(table(found, 'external_data')).toMatchObject([{ file: 'model.onnx_data', file_bytes: size }])
  })

  it('of ONNX whose data is missing or short: with a word on it', async () => {
    const missing = await file(artifact['model.onnx']!)
    expect(missing.notes).toEqual([expect.stringContaining('model.onnx_data is missing')])
    const cut = await file(artifact['model.onnx']!, { 'model.onnx_data': artifact['model.onnx_data']!.subarray(0, -1) })
    expect(cut.notes).toEqual([expect.stringContaining('copy it again')])
  })

  it('of ONNX with operators of other domains', async () => {
    const bytes = model([1, node('MatMulNBits', ['x'], ['y'], [7, 'com.microsoft'])], [12, value('y', 1, [1])])
    expect(table(await file(bytes), 'operators')).toEqual([{ operator: 'com.microsoft.MatMulNBits', count: 1 }])
  })

  it('of ONNX that reaches out of its folder is refused', async () => {
    const bytes = model([5, external('w', [1], { location: '../secret' })])
    await expectRefusal(() => file(bytes), 'onnx-invalid', 'no plain path')
  })

  it('of a GGUF: its architecture, its block formats, whether it compiles', async () => {
    const tensors = tinyTensors(seeded(FUZZ_SEED))
    const found = await file(writeGguf({ keys: TINY_KEYS, tensors }))
    expect(found).toMatchObject({
      kind: 'gguf',
      facts: {
        architecture: 'llama',
        tensors: 20,
        formats: ['Q8_0 × 3', 'F32 × 5', 'Q4_1 × 10', 'Q4_0 × 2'],
        compiles: 'yes',
      },
      notes: [],
    })
    expect(table(found, 'metadata')).toContainEqual({ key: 'tokenizer.ggml.tokens', value: '8 strings' })
    const other = await file(writeGguf({ keys: TINY_KEYS, tensors: tensors.slice(1) }))
    expect(other.facts.compiles).toBe('no')
    expect(other.notes.join()).toMatch(/token_embd.weight is missing/)
  })

  it('of an .onnx_adapter: its parameters and modules', async () => {
    const module = { A: Float32Array.of(1, 2, 3), B: Float32Array.of(4, 5), r: 1, in: 3, out: 2 }
    const found = await file(exportOnnxAdapter(new Map([['m', module]])))
    expect(found).toMatchObject({ kind: 'onnx-adapter', facts: { format_version: 1, parameters: 2, bytes: 20 } })
    expect(table(found, 'modules')).toEqual([{ module: 'm', r: 1, in: 3, out: 2 }])
  })

  it.each([
    ['a pickle', '\u0080\u0002x', 'pickle'],
    ['a zip', 'PK\u0003\u0004x', 'zip'],
    ['text', '# readme', 'it begins with "# readme"'],
    ['nothing', '', 'it begins with ""'],
  ])('of %s is refused in one sentence', async (_, text, words) => {
    const bytes = Uint8Array.from([...text].map((char) => char.charCodeAt(0)))
    await expectRefusal(() => file(bytes), 'file-unknown', words, 'this is not')
  })

  it('that is cut short is refused by the reader of its own format', async () => {
    await expectRefusal(() => file(artifact['model.onnx']!.subarray(0, 100)), 'onnx-invalid')
    const compiled = artifact[manifest.adapters[0]!.file!]!
    await expectRefusal(() => file(compiled.subarray(0, 100)), 'safetensors-invalid')
    await expectRefusal(() => file(new TextEncoder().encode('GGUF\u0003')), 'gguf-invalid')
  })
})
