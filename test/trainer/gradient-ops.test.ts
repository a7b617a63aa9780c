// The gradient of every operator: against central differences in fp64, and as ONNX Runtime computes it.
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { encodeModel } from '../../compiler/onnx/encode.ts'
import type { Attribute, Graph, InlineTensor } from '../../compiler/onnx/model.ts'
import { differentiate, RULES, reachedFrom } from '../../trainer/autodiff/differentiate.ts'
import { GraphWriter } from '../../trainer/autodiff/writer.ts'
import { seeded } from '../compiler/random.ts'
import { interpret, type Value, value } from './interpreter.ts'

interface Case {
  readonly name: string
  readonly op: string
  /** Of the inputs that are trained. */
  readonly shapes: readonly (readonly number[])[]
  /** Names of constants after, or among, the trained ones: `$0` is the first of those. */
  readonly inputs?: readonly string[]
  readonly constants?: readonly InlineTensor[]
  readonly attributes?: Readonly<Record<string, Attribute>>
  readonly outputs?: number
  /** Away from 0, for roots and quotients. */
  readonly positive?: boolean
}

const ints = (name: string, ...values: number[]): InlineTensor => ({
  name,
  dims: [values.length],
  data: BigInt64Array.from(values, BigInt),
})
const grid = (name: string, dims: readonly number[], values: readonly number[]): InlineTensor => ({
  name,
  dims,
  data: BigInt64Array.from(values, BigInt),
})
const float = (name: string, x: number): InlineTensor => ({ name, dims: [], data: Float32Array.of(x) })
const TANH = { approximate: { string: 'tanh' } } as const

const CASES: readonly Case[] = [
  {
    name: 'Add',
    op: 'Add',
    shapes: [
      [2, 3],
      [2, 3],
    ],
  },
  { name: 'Add of a row', op: 'Add', shapes: [[2, 3, 5], [5]] },
  {
    name: 'Add of a column',
    op: 'Add',
    shapes: [
      [3, 1],
      [2, 1, 5],
    ],
  },
  {
    name: 'Sub',
    op: 'Sub',
    shapes: [
      [2, 3],
      [1, 3],
    ],
  },
  {
    name: 'Mul',
    op: 'Mul',
    shapes: [
      [2, 3, 4],
      [3, 1],
    ],
  },
  { name: 'Mul of a value by itself', op: 'Mul', shapes: [[3, 4]], inputs: ['$0', '$0'] },
  {
    name: 'Div',
    op: 'Div',
    shapes: [
      [2, 3],
      [2, 1],
    ],
    positive: true,
  },
  { name: 'Div of a row', op: 'Div', shapes: [[3], [2, 3]], positive: true },
  { name: 'Neg', op: 'Neg', shapes: [[5]] },
  { name: 'Sqrt', op: 'Sqrt', shapes: [[5]], positive: true },
  { name: 'Pow of 2', op: 'Pow', shapes: [[5]], inputs: ['$0', 'p'], constants: [float('p', 2)] },
  { name: 'Pow of 3', op: 'Pow', shapes: [[5]], inputs: ['$0', 'p'], constants: [float('p', 3)] },
  { name: 'Reciprocal', op: 'Reciprocal', shapes: [[5]], positive: true },
  { name: 'Exp', op: 'Exp', shapes: [[5]] },
  { name: 'Log', op: 'Log', shapes: [[5]], positive: true },
  { name: 'Sigmoid', op: 'Sigmoid', shapes: [[7]] },
  { name: 'Tanh', op: 'Tanh', shapes: [[7]] },
  { name: 'Erf', op: 'Erf', shapes: [[7]] },
  { name: 'Gelu by tanh', op: 'Gelu', shapes: [[7]], attributes: TANH },
  { name: 'Gelu by erf', op: 'Gelu', shapes: [[7]] },
  {
    name: 'MatMul of rows by one matrix',
    op: 'MatMul',
    shapes: [
      [2, 3, 4],
      [4, 5],
    ],
  },
  {
    name: 'MatMul in batches',
    op: 'MatMul',
    shapes: [
      [2, 2, 3, 4],
      [2, 2, 4, 5],
    ],
  },
  {
    name: 'MatMul in batches that share a side',
    op: 'MatMul',
    shapes: [
      [2, 3, 4],
      [1, 4, 5],
    ],
  },
  {
    name: 'Gemm',
    op: 'Gemm',
    shapes: [
      [3, 4],
      [4, 5],
    ],
  },
  {
    name: 'Gemm, B transposed',
    op: 'Gemm',
    shapes: [
      [3, 4],
      [5, 4],
    ],
    attributes: { transB: 1 },
  },
  { name: 'Softmax', op: 'Softmax', shapes: [[2, 3, 5]], attributes: { axis: -1 } },
  { name: 'LogSoftmax', op: 'LogSoftmax', shapes: [[3, 5]], attributes: { axis: -1 } },
  { name: 'ReduceMean', op: 'ReduceMean', shapes: [[2, 3, 5]], inputs: ['$0', 'axes'], constants: [ints('axes', -1)] },
  { name: 'ReduceSum', op: 'ReduceSum', shapes: [[2, 3, 5]], inputs: ['$0', 'axes'], constants: [ints('axes', 1)] },
  {
    name: 'ReduceSum that drops an axis',
    op: 'ReduceSum',
    shapes: [[2, 3, 5]],
    inputs: ['$0', 'axes'],
    constants: [ints('axes', 1)],
    attributes: { keepdims: 0 },
  },
  {
    name: 'LayerNormalization',
    op: 'LayerNormalization',
    shapes: [[2, 3, 5], [5], [5]],
    attributes: { axis: -1, epsilon: { float: 1e-2 } },
  },
  { name: 'Reshape', op: 'Reshape', shapes: [[2, 6]], inputs: ['$0', 'to'], constants: [ints('to', 3, -1)] },
  { name: 'Unsqueeze', op: 'Unsqueeze', shapes: [[2, 3]], inputs: ['$0', 'axes'], constants: [ints('axes', 1)] },
  { name: 'Squeeze', op: 'Squeeze', shapes: [[2, 1, 3]], inputs: ['$0', 'axes'], constants: [ints('axes', 1)] },
  { name: 'Transpose', op: 'Transpose', shapes: [[2, 3, 5]], attributes: { perm: [2, 0, 1] } },
  {
    name: 'Concat',
    op: 'Concat',
    shapes: [
      [2, 3],
      [2, 5],
    ],
    attributes: { axis: -1 },
  },
  { name: 'Split in halves', op: 'Split', shapes: [[2, 6]], attributes: { axis: -1, num_outputs: 2 }, outputs: 2 },
  {
    name: 'Split by sizes',
    op: 'Split',
    shapes: [[2, 7]],
    inputs: ['$0', 'sizes'],
    constants: [ints('sizes', 5, 2)],
    attributes: { axis: -1 },
    outputs: 2,
  },
  {
    name: 'Slice',
    op: 'Slice',
    shapes: [[2, 7]],
    inputs: ['$0', 'from', 'to', 'axes'],
    constants: [ints('from', 2), ints('to', -1), ints('axes', 1)],
  },
  {
    name: 'Where',
    op: 'Where',
    shapes: [[2, 3], [3]],
    inputs: ['flags', '$0', '$1'],
    constants: [grid('flags', [2, 1], [1, 0])],
  },
  { name: 'Expand', op: 'Expand', shapes: [[2, 1, 3]], inputs: ['$0', 'to'], constants: [ints('to', 2, 4, 3)] },
  { name: 'Cast', op: 'Cast', shapes: [[4]], attributes: { to: 1 } },
  {
    name: 'Gather, a row twice',
    op: 'Gather',
    shapes: [[5, 3]],
    inputs: ['$0', 'rows'],
    constants: [grid('rows', [2, 2], [1, 4, 1, 0])],
    attributes: { axis: 0 },
  },
  {
    name: 'GatherND',
    op: 'GatherND',
    shapes: [[2, 3, 4]],
    inputs: ['$0', 'places'],
    constants: [grid('places', [3, 2], [0, 1, 1, 2, 0, 1])],
  },
  {
    name: 'GatherElements',
    op: 'GatherElements',
    shapes: [[3, 4]],
    inputs: ['$0', 'picked'],
    constants: [grid('picked', [3, 1], [2, 0, 3])],
    attributes: { axis: 1 },
  },
]

const random = seeded(7)
const draw = (count: number, positive = false) =>
  Array.from({ length: count }, () => Math.fround(positive ? 0.5 + random() : 4 * random() - 2))

/** x₀, x₁, … → y₀, y₁, …, and from ∂L/∂yᵢ = gᵢ the ∂L/∂xᵢ. */
function build(one: Case): { graph: Graph; outputs: readonly string[] } {
  const w = new GraphWriter({
    name: 'test',
    inputs: [],
    outputs: [],
    constants: one.constants ?? [],
    weights: [],
    nodes: [],
  })
  const trained = one.shapes.map((shape, i) => w.input(`x${i}`, 'float32', shape))
  const names = one.inputs ?? trained.map((_, i) => `$${i}`)
  let inputs = names.map((name) => (name.startsWith('$') ? (trained[Number(name.slice(1))] as string) : name))
  if (one.op === 'Where') inputs = [w.node('Cast', 'condition', ['flags'], { to: 9 }), ...inputs.slice(1)]
  const outputs = w.nodes(
    one.op,
    'y',
    inputs,
    one.outputs ?? 1,
    one.attributes,
    one.op === 'Expand' ? [[2, 4, 3]] : undefined,
  )
  const nodes = [...w.written]
  const gradients = new Map(outputs.map((y, i) => [y, w.input(`g${i}`, 'float32', w.shape(y))]))
  differentiate({ w, nodes, reached: reachedFrom(nodes, trained), gradients })
  for (const y of outputs) w.output(y)
  for (const x of trained) {
    const whole = w.expand(gradients.get(x) as string, w.shape(x), `whole/${x}`)
    w.add(
      { op: 'Reshape', name: `d${x}`, inputs: [whole, w.shapeVector(w.shape(x))], outputs: [`d${x}`], attributes: {} },
      [w.shape(x)],
    )
    w.output(`d${x}`)
  }
  return { graph: w.build(), outputs }
}

describe.each(CASES)('$name', (one) => {
  const { graph, outputs } = build(one)
  const inputs = new Map<string, Value>()
  for (const { name, shape } of graph.inputs) {
    const dims = shape as number[]
    inputs.set(
      name,
      value(
        dims,
        draw(
          dims.reduce((a, b) => a * b, 1),
          one.positive ?? false,
        ),
      ),
    )
  }
  const loss = (given: ReadonlyMap<string, Value>) => {
    const values = interpret(graph, given, new Map())
    return outputs.reduce((sum, y, i) => {
      const g = given.get(`g${i}`) as Value
      return sum + (values.get(y) as Value).data.reduce((total, v, at) => total + v * (g.data[at] as number), 0)
    }, 0)
  }
  const gradients = interpret(graph, inputs, new Map())

  it('is what central differences give in fp64', () => {
    for (const i of one.shapes.keys()) {
      const x = inputs.get(`x${i}`) as Value
      const found = gradients.get(`dx${i}`) as Value
      for (let at = 0; at < x.data.length; at += 1) {
        const moved = (by: number) => {
          const data = Float64Array.from(x.data)
          data[at] = (data[at] as number) + by
          return loss(new Map([...inputs, [`x${i}`, { ...x, data }]]))
        }
        const difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
        expect(Math.abs((found.data[at] as number) - difference)).toBeLessThan(1e-7 * Math.max(1, Math.abs(difference)))
      }
    }
  })

  it('is what ONNX Runtime gives in fp32', async () => {
    const session = await ort.InferenceSession.create(encodeModel(graph), { logSeverityLevel: 3 })
    const feeds = Object.fromEntries(
      graph.inputs.map(({ name }) => {
        const { data, dims } = inputs.get(name) as Value
        return [name, new ort.Tensor('float32', Float32Array.from(data), dims)]
      }),
    )
    const results = await session.run(feeds)
    for (const i of one.shapes.keys()) {
      const found = results[`dx${i}`]?.data as Float32Array
      ;(gradients.get(`dx${i}`) as Value).data.forEach((wanted, at) => {
        expect(Math.abs((found[at] as number) - wanted)).toBeLessThan(1e-5 * Math.max(1, Math.abs(wanted)))
      })
    }
    await session.release()
  })
})

it('every rule has a case', () => {
  expect(new Set(CASES.map(({ op }) => op))).toEqual(new Set(Object.keys(RULES)))
})
