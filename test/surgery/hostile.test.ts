// Exports that lie: refused with a typed error, without a byte written.
import { expect, test } from 'vitest'
import { InputError } from '../../compiler/errors.ts'
import { applyEdits } from '../../compiler/onnx/edit.ts'
import { allGraphs, readGraph } from '../../compiler/onnx/read-graph.ts'
import { concatBytes, field, rawFields, varintField } from '../../compiler/onnx/splice.ts'
import { findLinears } from '../../compiler/surgery/find-linears.ts'
import { FUZZ_SEED, mutate, seeded } from '../compiler/random.ts'
import { adapterFolder, distance, exported, oracle, run, surgery } from './exports.ts'

const NO_EDITS = { nodes: new Map(), tensors: new Map(), inputs: [], newTensors: [] }

/** As text of the same length, so that no length of a message changes. */
function replaceText(bytes: Uint8Array, from: string, to: string): Uint8Array {
  expect(to).toHaveLength(from.length)
  expect(Buffer.from(bytes).includes(from)).toBe(true)
  return new Uint8Array(Buffer.from(Buffer.from(bytes).toString('latin1').replaceAll(from, to), 'latin1'))
}

test('a file without edits is written as it was, unknown fields included', () => {
  const bytes = concatBytes([exported('dynamo.onnx'), field(999, 'of the future'), varintField(1000, 7)])
  expect(applyEdits(bytes, 'dynamo.onnx', NO_EDITS)).toEqual(bytes)
})

test('two nodes with the path of one module are ambiguous, and both are named', async () => {
  const bytes = exported('torchscript.onnx')
  const head = readGraph(bytes, 'a.onnx').graph.nodes.find(({ name }) => name === '/lm_head/MatMul')
  const renamed = rawFields(head?.payload ?? new Uint8Array(), 'a.onnx').map(({ number, raw }) =>
    number === 3 ? field(3, '/model/layers.0/self_attn/v_proj/MatMul') : raw,
  )
  const edits = { ...NO_EDITS, nodes: new Map([[head?.at ?? -1, [concatBytes(renamed)]]]) }
  await expect(surgery({ 'a.onnx': applyEdits(bytes, 'a.onnx', edits) }, 'routed')).rejects.toMatchObject({
    code: 'onnx-ambiguous',
    message: expect.stringMatching(/v_proj may be MatMul .*onnx::MatMul_\d+.* or MatMul .*onnx::MatMul_\d+/),
  })
})

test('a linear that is missing from one file is an error, not the base in silence', async () => {
  const whole = exported('nameless.onnx')
  const named = exported('torchscript.onnx')
  const lacking = replaceText(named, '/model/layers.1/mlp/up_proj/MatMul', '/model/layers.1/mlp/xx_proj/MatMul')
  await expect(surgery({ 'a.onnx': whole, 'b.onnx': lacking }, 'routed')).rejects.toMatchObject({
    code: 'adapter-target',
    message: expect.stringContaining('b.onnx: 1 of 14 linears'),
  })
})

test('a name that a path would add and that is there already is refused', async () => {
  const once = await surgery({ 'a.onnx': exported('torchscript.onnx') }, 'routed')
  await expect(surgery({ 'a.onnx': once.files.get('a.onnx') ?? '' }, 'routed')).rejects.toMatchObject({
    code: 'onnx-unsupported',
    message: expect.stringContaining('is there already'),
  })
})

test('a data file elsewhere, too short, or absent is refused', async () => {
  const [model, data] = [exported('external.onnx'), exported('external.onnx_data')]
  for (const location of ['/xternal.onnx_data', '../ernal.onnx_data', 'ab/../al.onnx_data']) {
    const files = { 'a.onnx': replaceText(model, 'external.onnx_data', location), 'external.onnx_data': data }
    await expect(surgery(files, 'routed')).rejects.toMatchObject({ code: 'onnx-invalid' })
  }
  const short = { 'a.onnx': model, 'external.onnx_data': data.subarray(0, data.length - 1) }
  await expect(surgery(short, 'routed')).rejects.toMatchObject({ code: 'onnx-invalid' })
  await expect(surgery({ 'a.onnx': model }, 'routed')).rejects.toMatchObject({ code: 'file-missing' })
})

test('a linear whose weight something else uses gets its own when merged', async () => {
  const shared = exported('gemm.onnx')
  const before = readGraph(shared, 'gemm.onnx')
  const extra = concatBytes([field(1, 'up.weight'), field(2, 'kept'), field(3, 'keeper'), field(4, 'Identity')])
  const graph = rawFields(shared, 'a').map(({ number, raw, payload }) =>
    number === 7 ? field(7, concatBytes([payload, field(1, extra)])) : raw,
  )
  const made = await surgery({ 'gemm.onnx': concatBytes(graph) }, 'merged', adapterFolder('gemm-adapter'))
  const after = readGraph(made.files.get('gemm.onnx') ?? new Uint8Array(), 'gemm.onnx').graph.initializers
  expect(after.get('up.weight')?.payload).toEqual(before.graph.initializers.get('up.weight')?.payload)
  expect(after.has('sidepath.up.weight')).toBe(true)
  const x = { x: { data: Float32Array.from(oracle.x), dims: [3, 6] } }
  expect(distance(await run(made.files, 'gemm.onnx', x), oracle.peft.gemm ?? [])).toBeLessThan(1e-5)
})

test('2000 damaged files are read or refused with a typed error', () => {
  const random = seeded(FUZZ_SEED)
  const originals = [
    exported('nameless.onnx'),
    exported('nbits.onnx'),
    exported('gemm.onnx'),
    exported('external.onnx'),
  ]
  let refused = 0
  for (let index = 0; index < 2000; index += 1) {
    const bytes = mutate(originals[index % originals.length] as Uint8Array, random)
    try {
      const model = readGraph(bytes, 'damaged.onnx')
      findLinears(model)
      expect(allGraphs(model.graph).length).toBeGreaterThan(0)
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      refused += 1
    }
  }
  expect(refused).toBeGreaterThan(500)
}, 120_000)
