// A merged decoder: the same module in both branches of an If.
import { expect, test } from 'vitest'
import { concatBytes, field, rawFields, varintField } from '../../compiler/onnx/splice.ts'
import { adapterFolder, distance, exported, oracle, run, stackedFeeds, surgery } from './exports.ts'

/** The net as both branches of an If over its own x; the weights lie in the outer graph, which both branches share. */
function branched(): Uint8Array {
  const model = rawFields(exported('gemm.onnx'), 'a')
  const graph = rawFields(model.find(({ number }) => number === 7)?.payload ?? new Uint8Array(), 'a')
  const of = (number: number) => graph.filter((part) => part.number === number)
  const output = of(12)
    .map(({ payload }) => payload)
    .map((payload) =>
      concatBytes(rawFields(payload, 'a').map((part) => (part.number === 1 ? field(1, 'y') : part.raw))),
    )
  const branch = (name: string) =>
    field(
      5,
      concatBytes([
        field(1, name),
        field(6, concatBytes([...of(1).map(({ raw }) => raw), field(2, name), ...output.map((o) => field(12, o))])),
        varintField(20, 5),
      ]),
    )
  const flag = field(5, concatBytes([varintField(2, 9), field(8, 'flag'), field(9, new Uint8Array([1]))]))
  const node = field(
    1,
    concatBytes([
      field(1, 'flag'),
      field(2, 'out'),
      field(3, 'If_0'),
      field(4, 'If'),
      branch('then_branch'),
      branch('else_branch'),
    ]),
  )
  const result = field(
    12,
    concatBytes(
      rawFields(output[0] ?? new Uint8Array(), 'a').map((part) => (part.number === 1 ? field(1, 'out') : part.raw)),
    ),
  )
  const outer = concatBytes([
    node,
    field(2, 'outer'),
    ...of(5).map(({ raw }) => raw),
    flag,
    ...of(11).map(({ raw }) => raw),
    result,
  ])
  return concatBytes(model.map((part) => (part.number === 7 ? field(7, outer) : part.raw)))
}

test('both branches of an If take the stack, and a merge writes the weight that they share once', async () => {
  const files = { 'merged.onnx': branched() }
  const adapter = adapterFolder('gemm-adapter')
  const x = { x: { data: Float32Array.from(oracle.x), dims: [3, 6] } }
  const plain = await run(new Map(Object.entries(files)), 'merged.onnx', x)
  expect(distance(plain, oracle.base.gemm ?? [])).toBeLessThan(1e-5)
  const stacked = await surgery(files, 'stacked', adapter)
  expect(stacked.report.coverage.map(({ module }) => module)).toEqual(['up', 'down', 'up', 'down'])
  const got = await run(stacked.files, 'merged.onnx', { ...x, ...(await stackedFeeds(stacked)) })
  expect(distance(got, oracle.peft.gemm ?? [])).toBeLessThan(1e-5)
  const merged = await surgery(files, 'merged', adapter)
  expect(distance(await run(merged.files, 'merged.onnx', x), oracle.peft.gemm ?? [])).toBeLessThan(1e-5)
})
