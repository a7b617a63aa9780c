// The shape of every value of a graph, as far as it can be known before it runs: a gradient must know what was broadcast.
import { assert } from '../../compiler/errors.ts'
import type { Attribute, Dimension, Graph, Node } from '../../compiler/onnx/model.ts'

export type Shape = readonly Dimension[]

/** What the inference asks of the graph around a node. */
export interface Known {
  shape(value: string): Shape
  /** Of a constant of int64; `undefined` where the value is computed. */
  ints(value: string): readonly number[] | undefined
}

type Infer = (node: Node, known: Known) => readonly Shape[]

/** The shapes of a node's outputs. Throws where the operator is not known. */
export function inferNode(node: Node, known: Known): readonly Shape[] {
  const infer = INFERENCES[node.op]
  assert(infer !== undefined, `the shape of ${node.op} (${node.name}) is not known`)
  return infer(node, known)
}

/** Value → shape, of all inputs, weights, constants and nodes. */
export function inferShapes(graph: Graph): Map<string, Shape> {
  const shapes = new Map<string, Shape>()
  for (const { name, shape } of graph.inputs) shapes.set(name, shape)
  for (const { name, dims } of [...graph.weights, ...graph.constants]) shapes.set(name, dims)
  const constants = new Map(graph.constants.map((tensor) => [tensor.name, tensor.data]))
  const known: Known = {
    shape(value) {
      const shape = shapes.get(value)
      assert(shape !== undefined, `${value} is used before it is computed`)
      return shape
    },
    ints(value) {
      const data = constants.get(value)
      return data instanceof BigInt64Array ? Array.from(data, Number) : undefined
    },
  }
  for (const node of graph.nodes) {
    inferNode(node, known).forEach((shape, at) => {
      const output = node.outputs[at]
      if (output !== undefined) shapes.set(output, shape)
    })
  }
  return shapes
}

/** The shape of an element-wise operator's result. Two names that differ are equal at run time, or it would not run. */
export function broadcast(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, at) => {
    const left = a[at - rank + a.length] ?? 1
    const right = b[at - rank + b.length] ?? 1
    if (left === 1) return right
    return right === 1 || typeof left === 'number' ? left : typeof right === 'number' ? right : left
  })
}

/** A dimension as a number times names: `3*tokens` is the length of three groups of rows. */
interface Product {
  readonly factor: number
  readonly names: readonly string[]
}

const parse = (dim: Dimension): Product => {
  if (typeof dim === 'number') return { factor: dim, names: [] }
  const parts = dim.split('*')
  const factor = Number(parts[0])
  return Number.isInteger(factor) ? { factor, names: parts.slice(1) } : { factor: 1, names: parts }
}

const print = ({ factor, names }: Product): Dimension =>
  names.length === 0 ? factor : [...(factor === 1 ? [] : [factor]), ...names].join('*')

export function product(shape: Shape): Dimension {
  const parts = shape.map(parse)
  return print({
    factor: parts.reduce((total, { factor }) => total * factor, 1),
    names: parts.flatMap(({ names }) => names).sort(),
  })
}

function quotient(whole: Shape, parts: Shape): Dimension {
  const { factor, names } = parse(product(whole))
  const rest = [...names]
  const divisor = parse(product(parts))
  for (const name of divisor.names) {
    const at = rest.indexOf(name)
    assert(at >= 0, `a reshape of [${whole}] cannot keep [${parts}]`)
    rest.splice(at, 1)
  }
  return print({ factor: factor / divisor.factor, names: rest })
}

const axisOf = (axis: number, rank: number) => (axis < 0 ? axis + rank : axis)
const number = (attribute: Attribute | undefined, otherwise: number) =>
  typeof attribute === 'number' ? attribute : otherwise
const numbers = (attribute: Attribute | undefined): readonly number[] | undefined =>
  Array.isArray(attribute) ? attribute : undefined

const input = (node: Node, at: number): string => {
  const value = node.inputs[at]
  assert(value !== undefined && value !== '', `${node.name} lacks its input ${at}`)
  return value
}

const same: Infer = (node, { shape }) => [shape(input(node, 0))]
const elementwise: Infer = (node, { shape }) => [node.inputs.map(shape).reduce(broadcast)]
const scalar: Infer = () => [[]]
const linear =
  (size: string): Infer =>
  (node, { shape }) => [[...shape(input(node, 0)).slice(0, -1), number(node.attributes[size], 0)]]

const reduce: Infer = (node, known) => {
  const shape = known.shape(input(node, 0))
  const given = node.inputs[1] === undefined ? undefined : known.ints(node.inputs[1])
  const axes = (given ?? shape.map((_, at) => at)).map((axis) => axisOf(axis, shape.length))
  const kept = number(node.attributes.keepdims, 1) === 1
  return [kept ? shape.map((dim, at) => (axes.includes(at) ? 1 : dim)) : shape.filter((_, at) => !axes.includes(at))]
}

const gather: Infer = (node, { shape }) => {
  const data = shape(input(node, 0))
  const axis = axisOf(number(node.attributes.axis ?? node.attributes.gather_axis, 0), data.length)
  return [[...data.slice(0, axis), ...shape(input(node, 1)), ...data.slice(axis + 1)]]
}

const matMul: Infer = (node, { shape }) => {
  const a = shape(input(node, 0))
  const b = shape(input(node, 1))
  return [[...broadcast(a.slice(0, -2), b.slice(0, -2)), a.at(-2) as Dimension, b.at(-1) as Dimension]]
}

const gemm: Infer = (node, { shape }) => {
  const a = shape(input(node, 0))
  const b = shape(input(node, 1))
  return [[a[node.attributes.transA === 1 ? 1 : 0] as Dimension, b[node.attributes.transB === 1 ? 0 : 1] as Dimension]]
}

const reshape: Infer = (node, known) => {
  const from = known.shape(input(node, 0))
  const to = known.ints(input(node, 1))
  assert(to !== undefined, `${node.name} reshapes to a computed shape`)
  const dims = to.map((dim, at) => (dim === 0 ? (from[at] as Dimension) : dim))
  return [
    dims.map((dim) =>
      dim === -1
        ? quotient(
            from,
            dims.filter((other) => other !== -1),
          )
        : dim,
    ),
  ]
}

const concat: Infer = (node, { shape }) => {
  const shapes = node.inputs.map(shape)
  const first = shapes[0] as Shape
  const axis = axisOf(number(node.attributes.axis, 0), first.length)
  const along = shapes.map((one) => one[axis] as Dimension)
  const total = along.every((dim) => typeof dim === 'number')
    ? along.reduce((sum, dim) => sum + (dim as number), 0)
    : `${node.name}.length`
  return [first.map((dim, at) => (at === axis ? total : dim))]
}

const split: Infer = (node, known) => {
  const shape = known.shape(input(node, 0))
  const axis = axisOf(number(node.attributes.axis, 0), shape.length)
  const sizes = node.inputs[1] === undefined ? undefined : known.ints(node.inputs[1])
  const dim = shape[axis] as Dimension
  return node.outputs.map((_, at) => {
    const size = sizes?.[at] ?? (typeof dim === 'number' ? dim / node.outputs.length : `${dim}/${node.outputs.length}`)
    return shape.map((whole, place) => (place === axis ? size : whole))
  })
}

const unsqueeze: Infer = (node, known) => {
  const from = [...known.shape(input(node, 0))]
  const axes = known.ints(input(node, 1)) ?? []
  const rank = from.length + axes.length
  const places = axes.map((axis) => axisOf(axis, rank))
  return [Array.from({ length: rank }, (_, at) => (places.includes(at) ? 1 : (from.shift() as Dimension)))]
}

const squeeze: Infer = (node, known) => {
  const from = known.shape(input(node, 0))
  const axes = node.inputs[1] === undefined ? undefined : known.ints(node.inputs[1])
  const places = axes?.map((axis) => axisOf(axis, from.length))
  return [from.filter((dim, at) => (places === undefined ? dim !== 1 : !places.includes(at)))]
}

const slice: Infer = (node, known) => {
  const from = known.shape(input(node, 0))
  const starts = known.ints(input(node, 1))
  const ends = known.ints(input(node, 2))
  assert(starts !== undefined && ends !== undefined, `${node.name} slices at computed places`)
  const axes = node.inputs[3] === undefined ? undefined : known.ints(node.inputs[3])
  return [
    from.map((dim, at) => {
      const place = axes === undefined ? at : axes.findIndex((axis) => axisOf(axis, from.length) === at)
      const start = place < 0 ? undefined : starts[place]
      if (start === undefined || typeof dim !== 'number') return start === undefined ? dim : `${node.name}.${at}`
      const clip = (bound: number) => Math.min(dim, Math.max(0, bound < 0 ? bound + dim : bound))
      return clip(ends[place] as number) - clip(start)
    }),
  ]
}

const layerNorm: Infer = (node, { shape }) => {
  const x = shape(input(node, 0))
  const statistics = [...x.slice(0, -1), 1]
  return [x, statistics, statistics]
}

const INFERENCES: Readonly<Record<string, Infer>> = {
  Add: elementwise,
  And: elementwise,
  Cast: same,
  Concat: concat,
  DequantizeLinear: same,
  Div: elementwise,
  Equal: elementwise,
  Erf: same,
  Exp: same,
  Gather: gather,
  GatherBlockQuantized: gather,
  GatherElements: (node, { shape }) => [shape(input(node, 1))],
  GatherND: (node, { shape }) => {
    const index = shape(input(node, 1))
    return [[...index.slice(0, -1), ...shape(input(node, 0)).slice(index.at(-1) as number)]]
  },
  Gelu: same,
  Gemm: gemm,
  Greater: elementwise,
  GreaterOrEqual: elementwise,
  LayerNormalization: layerNorm,
  Less: elementwise,
  LessOrEqual: elementwise,
  Log: same,
  LogSoftmax: same,
  MatMul: matMul,
  MatMulBnb4: linear('N'),
  MatMulNBits: linear('N'),
  Mul: elementwise,
  Neg: same,
  Or: elementwise,
  Pow: elementwise,
  Range: (node) => [[`${node.name}.length`]],
  Reciprocal: same,
  ReduceMax: reduce,
  ReduceMean: reduce,
  ReduceSum: reduce,
  ReduceSumSquare: reduce,
  Reshape: reshape,
  ScatterElements: same,
  ScatterND: same,
  Shape: (node, { shape }) => {
    const rank = shape(input(node, 0)).length
    const end = number(node.attributes.end, rank)
    return [[axisOf(end, rank) - axisOf(number(node.attributes.start, 0), rank)]]
  },
  Sigmoid: same,
  Size: scalar,
  Slice: slice,
  Softmax: same,
  Split: split,
  Sqrt: same,
  Squeeze: squeeze,
  Sub: elementwise,
  Tanh: same,
  Tile: (node, known) => {
    const repeats = known.ints(input(node, 1))
    assert(repeats !== undefined, `${node.name} repeats a computed number of times`)
    return [known.shape(input(node, 0)).map((dim, at) => product([dim, repeats[at] as number]))]
  },
  Transpose: (node, { shape }) => {
    const from = shape(input(node, 0))
    const perm = numbers(node.attributes.perm) ?? from.map((_, at) => from.length - 1 - at)
    return [perm.map((at) => from[at] as Dimension)]
  },
  Unsqueeze: unsqueeze,
  Where: elementwise,
}
