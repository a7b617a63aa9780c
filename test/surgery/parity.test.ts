// Adapters put into exported ONNX: the logits of transformers + PEFT, and all that was not meant to change unchanged.
import { expect, test } from 'vitest'
import { readGraph } from '../../compiler/onnx/read-graph.ts'
import type { Evidence } from '../../compiler/surgery/linear.ts'
import {
  adapterFolder,
  distance,
  exported,
  idFeeds,
  oracle,
  routedFeeds,
  run,
  stackedFeeds,
  surgery,
} from './exports.ts'

const FP32 = 1e-4
/** Products with 4-bit codes are summed in other orders, and logits are near 10. */
const NBITS = 1e-3

const LLAMAS: readonly (readonly [file: string, evidence: Evidence, oracle: 'llama' | 'nbits', bound: number])[] = [
  ['torchscript', 'node-name', 'llama', FP32],
  ['dynamo', 'node-name', 'llama', FP32],
  ['nameless', 'topology', 'llama', FP32],
  ['nbits', 'node-name', 'nbits', NBITS],
]

test.each(LLAMAS)(
  '%s.onnx routed gives PEFT for rows of the adapter and the base for the others',
  async (name, evidence, key, bound) => {
    const file = `${name}.onnx`
    const original = exported(file)
    const made = await surgery({ [file]: original }, 'routed')
    expect(made.report.coverage).toHaveLength(14)
    expect(new Set(made.report.coverage.map((line) => line.evidence))).toEqual(new Set([evidence]))
    const base = await run(new Map([[file, original]]), file, idFeeds())
    const rows = async (...slots: number[]) =>
      run(made.files, file, { ...idFeeds(), ...(await routedFeeds(made, slots)) })
    const half = base.length / 2

    expect(distance(await rows(0, 0), base)).toBe(0)
    expect(distance(await rows(1, 1), oracle.peft[key] ?? [])).toBeLessThan(bound)
    const mixed = await rows(0, 1)
    expect(distance(mixed.subarray(0, half), base.subarray(0, half))).toBeLessThan(1e-6)
    expect(distance(mixed.subarray(half), (oracle.peft[key] ?? []).slice(half))).toBeLessThan(bound)
    const poisoned = await rows(1, 2)
    expect(distance(poisoned.subarray(0, half), (oracle.peft[key] ?? []).slice(0, half))).toBeLessThan(bound)
    expect(poisoned.subarray(half).every(Number.isNaN)).toBe(true)
  },
)

test.each(LLAMAS)('%s.onnx stacked gives PEFT', async (name, _evidence, key, bound) => {
  const file = `${name}.onnx`
  const made = await surgery({ [file]: exported(file) }, 'stacked')
  expect(
    distance(await run(made.files, file, { ...idFeeds(), ...(await stackedFeeds(made)) }), oracle.peft[key] ?? []),
  ).toBeLessThan(bound)
})

test.each(LLAMAS.slice(0, 3))('%s.onnx merged gives PEFT and keeps every other tensor byte for byte', async (name) => {
  const file = `${name}.onnx`
  const original = exported(file)
  const made = await surgery({ [file]: original }, 'merged')
  expect(distance(await run(made.files, file, idFeeds()), oracle.peft.llama ?? [])).toBeLessThan(FP32)
  const before = readGraph(original, file).graph.initializers
  const after = readGraph(made.files.get(file) ?? new Uint8Array(), file).graph.initializers
  const changed = [...before].filter(
    ([key, { payload }]) => Buffer.compare(payload, after.get(key)?.payload ?? payload.subarray(1)) !== 0,
  )
  expect(changed.map(([key]) => key).toSorted()).toEqual(made.report.coverage.map(({ weight }) => weight).toSorted())
})

test('weights in a data file stay as they are when routed, and change in place when merged', async () => {
  const files = { 'external.onnx': exported('external.onnx'), 'external.onnx_data': exported('external.onnx_data') }
  const routed = await surgery(files, 'routed')
  expect(routed.files.get('external.onnx_data')).toEqual(files['external.onnx_data'])
  const feeds = { ...idFeeds(), ...(await routedFeeds(routed, [1, 1])) }
  expect(distance(await run(routed.files, 'external.onnx', feeds), oracle.peft.llama ?? [])).toBeLessThan(FP32)

  const merged = await surgery(files, 'merged')
  expect(merged.files.get('external.onnx')).toEqual(files['external.onnx'])
  expect(merged.files.get('external.onnx_data')).toHaveLength(files['external.onnx_data'].length)
  expect(distance(await run(merged.files, 'external.onnx', idFeeds()), oracle.peft.llama ?? [])).toBeLessThan(FP32)
})

test('two files of one model that share a data file are both changed', async () => {
  const model = exported('external.onnx')
  const files = { 'decoder.onnx': model, 'with_past.onnx': model, 'external.onnx_data': exported('external.onnx_data') }
  const merged = await surgery(files, 'merged')
  for (const file of ['decoder.onnx', 'with_past.onnx']) {
    expect(distance(await run(merged.files, file, idFeeds()), oracle.peft.llama ?? [])).toBeLessThan(FP32)
  }
  expect(merged.report.coverage).toHaveLength(28)
})

test('Gemm with transB takes a stack or a merge, and refuses slots, whose batch it does not know', async () => {
  const files = { 'gemm.onnx': exported('gemm.onnx') }
  const adapter = adapterFolder('gemm-adapter')
  const x = { x: { data: Float32Array.from(oracle.x), dims: [3, 6] } }
  const stacked = await surgery(files, 'stacked', adapter)
  expect(
    distance(await run(stacked.files, 'gemm.onnx', { ...x, ...(await stackedFeeds(stacked)) }), oracle.peft.gemm ?? []),
  ).toBeLessThan(1e-5)
  const merged = await surgery(files, 'merged', adapter)
  expect(distance(await run(merged.files, 'gemm.onnx', x), oracle.peft.gemm ?? [])).toBeLessThan(1e-5)
  await expect(surgery(files, 'routed', adapter)).rejects.toMatchObject({ code: 'onnx-unsupported' })
})

test('a merge into 4-bit weights changes their codes and nothing else, and is nearer to PEFT than the base', async () => {
  const original = exported('nbits.onnx')
  const made = await surgery({ 'nbits.onnx': original }, 'merged')
  const got = await run(made.files, 'nbits.onnx', idFeeds())
  const peft = oracle.peft.nbits ?? []
  expect(distance(got, peft)).toBeLessThan(distance(Float32Array.from(oracle.base.nbits ?? []), peft))
  const before = readGraph(original, 'a').graph.initializers
  const after = readGraph(made.files.get('nbits.onnx') ?? new Uint8Array(), 'a').graph.initializers
  const changed = [...before].filter(([key, { payload }]) =>
    Buffer.compare(payload, after.get(key)?.payload ?? payload),
  )
  expect(changed).toHaveLength(2 * 14)
})
