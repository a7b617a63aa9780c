// A graph in fp64, operator by operator, from their specification: what gradients are held against. Slow, and by another
// way than ONNX Runtime's.
import type { Attribute, Graph, Node } from '../../compiler/onnx/model.ts'

export interface Value {
  readonly dims: readonly number[]
  readonly data: Float64Array
}

export type Values = ReadonlyMap<string, Value>

const size = (dims: readonly number[]) => dims.reduce((product, dim) => product * dim, 1)
export const value = (dims: readonly number[], data: ArrayLike<number>): Value => ({
  dims,
  data: Float64Array.from(data),
})

/** `weights`: of the file, whole. */
export function interpret(graph: Graph, inputs: Values, weights: Values): Map<string, Value> {
  const values = new Map([...inputs, ...weights])
  for (const { name, dims, data, type } of graph.constants) {
    values.set(
      name,
      value(
        dims,
        type === 'uint4' ? nibbles(data as Uint8Array, size(dims)) : Array.from(data as Float32Array, Number),
      ),
    )
  }
  for (const node of graph.nodes) {
    const run = OPERATORS[node.op]
    if (run === undefined) throw new Error(`the interpreter does not know ${node.op}`)
    const given = node.inputs.map((name) => {
      const found = values.get(name)
      if (found === undefined) throw new Error(`${node.name} reads ${name}, which is not there`)
      return found
    })
    run(given, node).forEach((result, at) => {
      values.set(node.outputs[at] as string, result)
    })
  }
  return values
}

export const nibbles = (bytes: Uint8Array, count: number) =>
  Array.from({ length: count }, (_, at) => ((bytes[at >> 1] as number) >> (4 * (at % 2))) & 15)

type Run = (inputs: readonly Value[], node: Node) => readonly Value[]

const num = (attribute: Attribute | undefined, otherwise: number) =>
  typeof attribute === 'number' ? attribute : otherwise
const list = (x: Value | undefined) => (x === undefined ? undefined : Array.from(x.data))
const at = (axis: number, rank: number) => (axis < 0 ? axis + rank : axis)
const strides = (dims: readonly number[]) => dims.map((_, axis) => size(dims.slice(axis + 1)))

/** The index of every element, in order. */
function* places(dims: readonly number[]): Generator<number[]> {
  const total = size(dims)
  const steps = strides(dims)
  for (let i = 0; i < total; i += 1) yield dims.map((dim, axis) => Math.floor(i / (steps[axis] as number)) % dim)
}

function pick(x: Value, place: readonly number[]): number {
  const offset = place.length - x.dims.length
  const steps = strides(x.dims)
  let index = 0
  x.dims.forEach((dim, axis) => {
    index += dim === 1 ? 0 : (place[axis + offset] as number) * (steps[axis] as number)
  })
  return x.data[index] as number
}

const make = (dims: readonly number[], of: (place: number[]) => number): Value =>
  value(dims, Array.from(places(dims), of))

function spread(shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map(({ length }) => length))
  return Array.from({ length: rank }, (_, axis) =>
    shapes.reduce((most, shape) => {
      const dim = shape[axis - rank + shape.length] ?? 1
      return dim === 1 ? most : dim
    }, 1),
  )
}

const each =
  (f: (...numbers: number[]) => number): Run =>
  (inputs) => [make(spread(inputs.map(({ dims }) => dims)), (place) => f(...inputs.map((x) => pick(x, place))))]

function erf(x: number): number {
  // The series converges for every x; 60 terms are enough for |x| < 5.
  if (Math.abs(x) > 5) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; n < 120; n += 1) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

const reducing =
  (f: (numbers: readonly number[]) => number): Run =>
  ([x, axes], node) => {
    const data = x as Value
    const chosen = (list(axes) ?? data.dims.map((_, axis) => axis)).map((axis) => at(axis, data.dims.length))
    const kept = data.dims.map((dim, axis) => (chosen.includes(axis) ? 1 : dim))
    const along = data.dims.map((dim, axis) => (chosen.includes(axis) ? dim : 1))
    const result = make(kept, (place) =>
      f(
        Array.from(places(along), (step) =>
          pick(
            data,
            place.map((p, axis) => p + (step[axis] as number)),
          ),
        ),
      ),
    )
    if (num(node.attributes.keepdims, 1) === 1) return [result]
    return [{ dims: kept.filter((_, axis) => !chosen.includes(axis)), data: result.data }]
  }

const alongLast =
  (f: (row: readonly number[]) => readonly number[]): Run =>
  ([x]) => {
    const { dims, data } = x as Value
    const n = dims.at(-1) as number
    const out = new Float64Array(data.length)
    for (let from = 0; from < data.length; from += n) out.set(f(Array.from(data.subarray(from, from + n))), from)
    return [{ dims, data: out }]
  }

function matMul(a: Value, b: Value, transA = false, transB = false): Value {
  const batch = spread([a.dims.slice(0, -2), b.dims.slice(0, -2)])
  const [m, k] = transA ? [a.dims.at(-1), a.dims.at(-2)] : [a.dims.at(-2), a.dims.at(-1)]
  const n = (transB ? b.dims.at(-2) : b.dims.at(-1)) as number
  return make([...batch, m as number, n], (place) => {
    const [row, column] = [place.at(-2) as number, place.at(-1) as number]
    const before = place.slice(0, -2)
    let sum = 0
    for (let i = 0; i < (k as number); i += 1) {
      sum +=
        pick(a, [...before, ...(transA ? [i, row] : [row, i])]) *
        pick(b, [...before, ...(transB ? [column, i] : [i, column])])
    }
    return sum
  })
}

const reshape: Run = ([x, to]) => {
  const { dims, data } = x as Value
  const wanted = list(to) as number[]
  const kept = wanted.map((dim, axis) => (dim === 0 ? (dims[axis] as number) : dim))
  const known = size(kept.filter((dim) => dim !== -1))
  return [{ dims: kept.map((dim) => (dim === -1 ? data.length / known : dim)), data }]
}

const scatterND: Run = ([x, index, updates], node) => {
  const { dims, data } = x as Value
  const out = Float64Array.from(data)
  const depth = index?.dims.at(-1) as number
  const row = size(dims.slice(depth))
  const steps = strides(dims)
  const count = (index as Value).data.length / depth
  const adds = JSON.stringify(node.attributes.reduction) === '{"string":"add"}'
  for (let i = 0; i < count; i += 1) {
    let from = 0
    for (let j = 0; j < depth; j += 1) from += ((index as Value).data[i * depth + j] as number) * (steps[j] as number)
    for (let j = 0; j < row; j += 1) {
      out[from + j] = (adds ? (out[from + j] as number) : 0) + ((updates as Value).data[i * row + j] as number)
    }
  }
  return [{ dims, data: out }]
}

const gather: Run = ([x, index], node) => {
  const data = x as Value
  const axis = at(num(node.attributes.axis, 0), data.dims.length)
  const rank = (index as Value).dims.length
  const dims = [...data.dims.slice(0, axis), ...(index as Value).dims, ...data.dims.slice(axis + 1)]
  return [
    make(dims, (place) => {
      const found = pick(index as Value, place.slice(axis, axis + rank))
      return pickWhole(data, [...place.slice(0, axis), found, ...place.slice(axis + rank)])
    }),
  ]
}

function pickWhole(x: Value, place: readonly number[]): number {
  const steps = strides(x.dims)
  return x.data[place.reduce((sum, index, axis) => sum + index * (steps[axis] as number), 0)] as number
}

const slice: Run = ([x, starts, ends, axes]) => {
  const data = x as Value
  const from = data.dims.map(() => 0)
  const to = [...data.dims]
  ;(list(axes) ?? data.dims.map((_, axis) => axis)).forEach((given, i) => {
    const axis = at(given, data.dims.length)
    const dim = data.dims[axis] as number
    const clip = (bound: number) => Math.min(dim, Math.max(0, bound < 0 ? bound + dim : bound))
    from[axis] = clip(starts?.data[i] as number)
    to[axis] = clip(ends?.data[i] as number)
  })
  return [
    make(
      to.map((end, axis) => end - (from[axis] as number)),
      (place) =>
        pickWhole(
          data,
          place.map((index, axis) => index + (from[axis] as number)),
        ),
    ),
  ]
}

const split: Run = ([x, sizes], node) => {
  const data = x as Value
  const axis = at(num(node.attributes.axis, 0), data.dims.length)
  const whole = data.dims[axis] as number
  const lengths = list(sizes) ?? node.outputs.map(() => whole / node.outputs.length)
  let start = 0
  return lengths.map((length) => {
    const from = start
    start += length
    return make(
      data.dims.map((dim, place) => (place === axis ? length : dim)),
      (place) =>
        pickWhole(
          data,
          place.map((index, i) => (i === axis ? index + from : index)),
        ),
    )
  })
}

const concat: Run = (inputs, node) => {
  const axis = at(num(node.attributes.axis, 0), (inputs[0] as Value).dims.length)
  const total = inputs.reduce((sum, { dims }) => sum + (dims[axis] as number), 0)
  return [
    make(
      (inputs[0] as Value).dims.map((dim, place) => (place === axis ? total : dim)),
      (place) => {
        let index = place[axis] as number
        const found = inputs.find(({ dims }) => {
          if (index < (dims[axis] as number)) return true
          index -= dims[axis] as number
          return false
        })
        return pickWhole(
          found as Value,
          place.map((old, i) => (i === axis ? index : old)),
        )
      },
    ),
  ]
}

const layerNormalization: Run = ([x, weight, bias], node) => {
  const { epsilon } = node.attributes as { epsilon: { float: number } }
  return alongLast((row) => {
    const mean = row.reduce((sum, v) => sum + v, 0) / row.length
    const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / row.length
    return row.map(
      (v, i) =>
        ((v - mean) / Math.sqrt(variance + epsilon.float)) * (weight?.data[i] as number) + (bias?.data[i] as number),
    )
  })([x as Value], node)
}

const dequantizeLinear: Run = ([x, scale, zero], node) => {
  const block = num(node.attributes.block_size, 0)
  const data = x as Value
  return [
    make(data.dims, (place) => {
      const [row, column] = place as [number, number]
      const b = [row, Math.floor(column / block)]
      return (pickWhole(data, place) - pickWhole(zero as Value, b)) * pickWhole(scale as Value, b)
    }),
  ]
}

const ROOT = Math.sqrt(2 / Math.PI)
const truth = (holds: boolean) => (holds ? 1 : 0)

const OPERATORS: Readonly<Record<string, Run>> = {
  Add: each((a, b) => (a as number) + (b as number)),
  Sub: each((a, b) => (a as number) - (b as number)),
  Mul: each((a, b) => (a as number) * (b as number)),
  Div: each((a, b) => (a as number) / (b as number)),
  Pow: each((a, b) => (a as number) ** (b as number)),
  Neg: each((a) => -(a as number)),
  Sqrt: each((a) => Math.sqrt(a as number)),
  Exp: each((a) => Math.exp(a as number)),
  Log: each((a) => Math.log(a as number)),
  Reciprocal: each((a) => 1 / (a as number)),
  Tanh: each((a) => Math.tanh(a as number)),
  Erf: each((a) => erf(a as number)),
  Sigmoid: each((a) => 1 / (1 + Math.exp(-(a as number)))),
  Gelu: (inputs, node) => {
    const isTanh = JSON.stringify(node.attributes.approximate) === '{"string":"tanh"}'
    return each((a) => {
      const x = a as number
      const cdf = isTanh ? 0.5 * (1 + Math.tanh(ROOT * (x + 0.044715 * x ** 3))) : 0.5 * (1 + erf(x / Math.SQRT2))
      return x * cdf
    })(inputs, node)
  },
  Where: each((c, a, b) => (c === 0 ? (b as number) : (a as number))),
  Equal: each((a, b) => truth(a === b)),
  Less: each((a, b) => truth((a as number) < (b as number))),
  LessOrEqual: each((a, b) => truth((a as number) <= (b as number))),
  Greater: each((a, b) => truth((a as number) > (b as number))),
  And: each((a, b) => truth(a !== 0 && b !== 0)),
  // Values are numbers here, whatever their type.
  Cast: ([x]) => [x as Value],
  MatMul: ([a, b]) => [matMul(a as Value, b as Value)],
  Gemm: ([a, b], { attributes }) => [matMul(a as Value, b as Value, attributes.transA === 1, attributes.transB === 1)],
  Softmax: alongLast((row) => {
    const most = Math.max(...row)
    const powers = row.map((v) => Math.exp(v - most))
    const sum = powers.reduce((total, v) => total + v, 0)
    return powers.map((v) => v / sum)
  }),
  LogSoftmax: alongLast((row) => {
    const most = Math.max(...row)
    const log = most + Math.log(row.reduce((total, v) => total + Math.exp(v - most), 0))
    return row.map((v) => v - log)
  }),
  ReduceSum: reducing((row) => row.reduce((sum, v) => sum + v, 0)),
  ReduceMean: reducing((row) => row.reduce((sum, v) => sum + v, 0) / row.length),
  ReduceProd: reducing((row) => row.reduce((product, v) => product * v, 1)),
  ReduceSumSquare: reducing((row) => row.reduce((sum, v) => sum + v * v, 0)),
  LayerNormalization: layerNormalization,
  DequantizeLinear: dequantizeLinear,
  Reshape: reshape,
  Unsqueeze: ([x, axes]) => {
    const { dims, data } = x as Value
    const rank = dims.length + (axes?.data.length ?? 0)
    const chosen = (list(axes) ?? []).map((axis) => at(axis, rank))
    const rest = [...dims]
    return [
      { dims: Array.from({ length: rank }, (_, axis) => (chosen.includes(axis) ? 1 : (rest.shift() as number))), data },
    ]
  },
  Squeeze: ([x, axes]) => {
    const { dims, data } = x as Value
    const chosen = list(axes)?.map((axis) => at(axis, dims.length))
    return [{ dims: dims.filter((dim, axis) => (chosen === undefined ? dim !== 1 : !chosen.includes(axis))), data }]
  },
  Transpose: ([x], { attributes }) => {
    const data = x as Value
    const perm = (attributes.perm as number[] | undefined) ?? data.dims.map((_, axis) => data.dims.length - 1 - axis)
    return [
      make(
        perm.map((axis) => data.dims[axis] as number),
        (place) =>
          pickWhole(
            data,
            data.dims.map((_, axis) => place[perm.indexOf(axis)] as number),
          ),
      ),
    ]
  },
  Concat: concat,
  Split: split,
  Slice: slice,
  Gather: gather,
  GatherElements: ([x, index], { attributes }) => {
    const data = x as Value
    const axis = at(num(attributes.axis, 0), data.dims.length)
    return [
      make((index as Value).dims, (place) =>
        pickWhole(
          data,
          place.map((old, i) => (i === axis ? pickWhole(index as Value, place) : old)),
        ),
      ),
    ]
  },
  GatherND: ([x, index]) => {
    const data = x as Value
    const depth = (index as Value).dims.at(-1) as number
    const lead = (index as Value).dims.slice(0, -1)
    return [
      make([...lead, ...data.dims.slice(depth)], (place) => {
        const row = place.slice(0, lead.length)
        const found = Array.from({ length: depth }, (_, i) => pickWhole(index as Value, [...row, i]))
        return pickWhole(data, [...found, ...place.slice(lead.length)])
      }),
    ]
  },
  ScatterND: scatterND,
  ScatterElements: ([x, index, updates], { attributes }) => {
    const data = x as Value
    const axis = at(num(attributes.axis, 0), data.dims.length)
    const out = Float64Array.from(data.data)
    const steps = strides(data.dims)
    for (const place of places((index as Value).dims)) {
      const to = place.map((old, i) => (i === axis ? pickWhole(index as Value, place) : old))
      const offset = to.reduce((sum, i, j) => sum + i * (steps[j] as number), 0)
      out[offset] = (out[offset] as number) + pickWhole(updates as Value, place)
    }
    return [{ dims: data.dims, data: out }]
  },
  ConstantOfShape: ([shape]) => {
    const dims = list(shape) as number[]
    return [{ dims, data: new Float64Array(size(dims)) }]
  },
  Expand: ([x, shape]) => [
    make(spread([(x as Value).dims, list(shape) as number[]]), (place) => pick(x as Value, place)),
  ],
  Tile: ([x, repeats]) => {
    const data = x as Value
    return [
      make(
        data.dims.map((dim, axis) => dim * (repeats?.data[axis] as number)),
        (place) =>
          pickWhole(
            data,
            place.map((index, axis) => index % (data.dims[axis] as number)),
          ),
      ),
    ]
  },
  Shape: ([x], { attributes }) => {
    const { dims } = x as Value
    const part = dims.slice(num(attributes.start, 0), attributes.end === undefined ? undefined : num(attributes.end, 0))
    return [value([part.length], part)]
  },
  Size: ([x]) => [value([], [(x as Value).data.length])],
  Range: ([from, to, step]) => {
    const [a, b, c] = [from, to, step].map((x) => x?.data[0] as number) as [number, number, number]
    const numbers = Array.from({ length: Math.max(0, Math.ceil((b - a) / c)) }, (_, i) => a + i * c)
    return [value([numbers.length], numbers)]
  },
}
