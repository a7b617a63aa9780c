// Exports of optimum, of the builder of onnxruntime-genai and of ONNX Runtime's quantisers, with adapters that name the
// linears as the graph does or not: the logits of PEFT on the same weights (test/parity/exporters-oracle.py).
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { readGraph } from '../../compiler/onnx/read-graph.ts'
import { openFolder } from '../../runtime/disk.ts'
import type { Tensor } from '../../runtime/node.ts'
import { distance, routedFeeds, run, stackedFeeds, surgery } from './exports.ts'

const ORACLE = join(import.meta.dirname, '../parity/oracle/exporters')
const oracle: {
  ids: number[][]
  base: Record<string, number[]>
  peft: Record<string, Record<string, number[]>>
} = JSON.parse(readFileSync(join(ORACLE, 'oracle.json'), 'utf8'))

/** Sums in another order. */
const EXACT = 1e-4
/** ONNX Runtime makes of DequantizeLinear and MatMul a product that rounds its activations to 8 bits. */
const ROUNDED = 0.1
const EXPORTS = [
  ['optimum-llama', EXACT],
  ['optimum-phi3', EXACT],
  ['optimum-llama-q4', EXACT],
  ['optimum-llama-bnb4', EXACT],
  ['optimum-llama-qdq4', ROUNDED],
  ['optimum-llama-qdq8', ROUNDED],
  ['genai-llama-fp32', EXACT],
  ['genai-llama-int4', EXACT],
] as const
const ADAPTERS = ['whole', 'part', 'fused'] as const
const CASES = EXPORTS.flatMap(([name, bound]) => ADAPTERS.map((adapter) => [name, adapter, bound] as const))

const exported = (name: string) => new Uint8Array(gunzipSync(readFileSync(join(ORACLE, `${name}.onnx.gz`))))
const adapterFolder = (name: string) => openFolder(join(ORACLE, name))

/** What the graph takes: ids, a mask of ones, positions, an empty cache. */
function feeds(model: Uint8Array): Record<string, Tensor> {
  const long = (values: readonly number[]) => ({ data: BigInt64Array.from(values, BigInt), dims: [2, 5] })
  const given: Record<string, Tensor> = {
    input_ids: long(oracle.ids.flat()),
    attention_mask: long(Array.from({ length: 10 }, () => 1)),
    position_ids: long(Array.from({ length: 10 }, (_, index) => index % 5)),
  }
  const empty = { data: new Float32Array(), dims: [2, 1, 0, 16] }
  const { inputs } = readGraph(model, 'a.onnx').summary.graph
  return Object.fromEntries(inputs.map(({ name }) => [name, given[name] ?? empty]))
}

const modified = (name: string, adapter: string, target: 'routed' | 'stacked' | 'merged') =>
  surgery({ 'model.onnx': exported(name) }, target, adapterFolder(adapter))

test.each(CASES)('%s routes %s as PEFT does, and slot 0 is the base to the bit', async (name, adapter, bound) => {
  const original = exported(name)
  const base = await run(new Map([['model.onnx', original]]), 'model.onnx', feeds(original))
  expect(distance(base, oracle.base[name] ?? [])).toBeLessThan(bound)
  const made = await modified(name, adapter, 'routed')
  const rows = async (...slots: number[]) =>
    run(made.files, 'model.onnx', { ...feeds(original), ...(await routedFeeds(made, slots)) })
  const [half, peft] = [base.length / 2, oracle.peft[name]?.[adapter] ?? []]
  expect(distance(await rows(0, 0), base)).toBe(0)
  const mixed = await rows(0, 1)
  expect(distance(mixed.subarray(0, half), base.subarray(0, half))).toBeLessThan(1e-6)
  expect(distance(mixed.subarray(half), peft.slice(half))).toBeLessThan(bound)
  expect(distance(mixed.subarray(half), base.subarray(half))).toBeGreaterThan(
    5 * distance(mixed.subarray(half), peft.slice(half)),
  )
})

test.each(CASES)('%s stacks %s as PEFT does', async (name, adapter, bound) => {
  const made = await modified(name, adapter, 'stacked')
  const got = await run(made.files, 'model.onnx', { ...feeds(exported(name)), ...(await stackedFeeds(made)) })
  expect(distance(got, oracle.peft[name]?.[adapter] ?? [])).toBeLessThan(bound)
})

const FLOATS = CASES.filter(([name]) => ['optimum-llama', 'optimum-phi3', 'genai-llama-fp32'].includes(name))
test.each(FLOATS)('%s takes %s into its weights as PEFT does', async (name, adapter) => {
  const made = await modified(name, adapter, 'merged')
  const got = await run(made.files, 'model.onnx', feeds(exported(name)))
  expect(distance(got, oracle.peft[name]?.[adapter] ?? [])).toBeLessThan(EXACT)
  expect(made.report.roundings).toBeUndefined()
})

test('columns of a fused linear are reported with what says where they part', async () => {
  const { report } = await modified('genai-llama-fp32', 'part', 'routed')
  const [q, v] = report.coverage.filter(({ op, node }) => op === 'MatMul' && node.includes('layers.1/attn/qkv_proj'))
  expect(q).toMatchObject({ module: 'model.layers.1.self_attn.q_proj', columns: { from: 0, width: 32 } })
  expect(v).toMatchObject({ module: 'model.layers.1.self_attn.v_proj', columns: { from: 48, width: 16 } })
  expect(v?.columns?.by).toMatch(/GroupQueryAttention .*: 2 and 1 heads of 16/)
  const phi3 = (await modified('optimum-phi3', 'part', 'routed')).report.coverage
  expect(phi3.find(({ module }) => module.endsWith('layers.0.mlp.gate_proj'))?.columns).toMatchObject({
    from: 0,
    width: 48,
  })
})

test('a fused linear whose cut nothing states is ambiguous, with the candidates', async () => {
  const bytes = Buffer.from(exported('genai-llama-fp32'))
  const lying = new Uint8Array(
    Buffer.from(bytes.toString('latin1').replaceAll('GroupQueryAttention', 'GroupQueryAttentioX'), 'latin1'),
  )
  await expect(surgery({ 'model.onnx': lying }, 'routed', adapterFolder('part'))).rejects.toMatchObject({
    code: 'onnx-ambiguous',
    message: expect.stringMatching(
      /q_proj, .*k_proj, .*v_proj may be any columns of MatMul ".*qkv_proj\/MatMul", 32 → 64/,
    ),
  })
})

const CODES = CASES.filter(([name]) =>
  ['optimum-llama-q4', 'genai-llama-int4', 'optimum-llama-qdq4', 'optimum-llama-qdq8'].includes(name),
)
test.each(CODES)('%s takes %s into its codes, and says what rounding lost', async (name, adapter) => {
  const original = exported(name)
  const made = await modified(name, adapter, 'merged')
  const model = made.files.get('model.onnx') ?? new Uint8Array()
  expect(model).toHaveLength(original.length)
  const got = await run(made.files, 'model.onnx', feeds(original))
  const peft = oracle.peft[name]?.[adapter] ?? []
  const [off, apart] = [distance(got, peft), distance(Float32Array.from(oracle.base[name] ?? []), peft)]
  expect(off).toBeLessThan(apart)
  const roundings = made.report.roundings ?? []
  const nodes = new Set(made.report.coverage.map(({ node }) => node))
  expect(new Set(roundings.map(({ node }) => node))).toEqual(nodes)
  const most = name.endsWith('qdq8') ? 0.01 : 0.12
  for (const { relativeError, lossOfDelta } of roundings) {
    expect(relativeError).toBeGreaterThan(0)
    expect(relativeError).toBeLessThan(most)
    expect(lossOfDelta).toBeGreaterThan(relativeError)
  }
})

test('MatMulBnb4 is not merged into, and the sentence says what to do', async () => {
  await expect(modified('optimum-llama-bnb4', 'whole', 'merged')).rejects.toThrow(
    /is MatMulBnb4, which no merge .*; take compile/,
  )
})
