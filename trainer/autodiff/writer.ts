// Adds nodes to a graph that exists. Knows every value's shape, and says in which order nodes must run where that matters.
import { assert } from '../../compiler/errors.ts'
import type { Attribute, ExternalTensor, Graph, InlineTensor, Node, ValueInfo } from '../../compiler/onnx/model.ts'
import { inferNode, inferShapes, product, type Shape } from './shapes.ts'

/** TensorProto.DataType */
const INT64 = 7

/** Where the run-time size of a named dimension can be read: axis of an input of the graph. */
interface Place {
  readonly input: string
  readonly axis: number
}

export class GraphWriter {
  readonly #graph: Graph
  readonly #shapes: Map<string, Shape>
  readonly #inputs: ValueInfo[]
  readonly #outputs: ValueInfo[]
  readonly #constants: Map<string, InlineTensor>
  readonly #weights: Map<string, ExternalTensor>
  readonly #nodes: Node[]
  readonly #places = new Map<string, Place>()
  readonly #made = new Map<string, string>()
  readonly #said = new Set<string>()

  constructor(graph: Graph) {
    this.#graph = graph
    this.#shapes = inferShapes(graph)
    this.#inputs = [...graph.inputs]
    this.#outputs = [...graph.outputs]
    this.#constants = new Map(graph.constants.map((tensor) => [tensor.name, tensor]))
    this.#weights = new Map(graph.weights.map((tensor) => [tensor.name, tensor]))
    this.#nodes = [...graph.nodes]
    for (const { name, shape } of graph.inputs) this.#place(name, shape)
  }

  shape(value: string): Shape {
    const shape = this.#shapes.get(value)
    assert(shape !== undefined, `${value} does not exist`)
    return shape
  }

  /** All nodes so far, needed or not. */
  get written(): readonly Node[] {
    return this.#nodes
  }

  has(value: string): boolean {
    return this.#shapes.has(value)
  }

  isWeight(value: string): boolean {
    return this.#weights.has(value)
  }

  /** Of a constant of int64. */
  constantInts(value: string): readonly number[] | undefined {
    const data = this.#constants.get(value)?.data
    return data instanceof BigInt64Array ? Array.from(data, Number) : undefined
  }

  /** The number in a constant of one float. */
  constantFloat(value: string): number | undefined {
    const data = this.#constants.get(value)?.data
    return data instanceof Float32Array && data.length === 1 ? data[0] : undefined
  }

  /** The node's first output, named after it; a name that is taken gets a number. */
  node(
    op: string,
    name: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
    shape?: Shape,
  ): string {
    return this.nodes(op, name, inputs, 1, attributes, shape && [shape])[0] as string
  }

  nodes(
    op: string,
    name: string,
    inputs: readonly string[],
    outputs: number,
    attributes: Readonly<Record<string, Attribute>> = {},
    shapes?: readonly Shape[],
  ): readonly string[] {
    const free = this.#free(name)
    const names = outputs === 1 ? [free] : Array.from({ length: outputs }, (_, at) => `${free}.${at}`)
    const node: Node = { op, name: free, inputs, outputs: names, attributes }
    this.add(node, shapes)
    return names
  }

  /** A node as it stands. */
  add(node: Node, shapes?: readonly Shape[]): void {
    for (const input of node.inputs)
      assert(input === '' || this.#shapes.has(input), `${node.name} reads ${input} too early`)
    const inferred =
      shapes ?? inferNode(node, { shape: (value) => this.shape(value), ints: (value) => this.constantInts(value) })
    node.outputs.forEach((output, at) => {
      assert(!this.#shapes.has(output), `two values are called ${output}`)
      this.#shapes.set(output, inferred[at] as Shape)
    })
    this.#nodes.push(node)
  }

  /** The nodes once more under other names; `given`: what else is read in place of what. Gives the names of the copies. */
  copy(
    nodes: readonly Node[],
    prefix: string,
    given: ReadonlyMap<string, string>,
  ): { readonly nodes: readonly Node[]; rename(value: string): string } {
    const names = new Map([
      ...given,
      ...nodes.flatMap(({ outputs }) => outputs.map((y) => [y, `${prefix}${y}`] as const)),
    ])
    const rename = (value: string) => names.get(value) ?? value
    const copies = nodes.map((node) => {
      const copy = {
        ...node,
        name: `${prefix}${node.name}`,
        inputs: node.inputs.map(rename),
        outputs: node.outputs.map(rename),
      }
      const isKnown = node.outputs.every((output) => this.#shapes.has(output))
      this.add(copy, isKnown ? node.outputs.map((output) => this.shape(output)) : undefined)
      return copy
    })
    return { nodes: copies, rename }
  }

  input(name: string, type: ValueInfo['type'], shape: Shape): string {
    assert(!this.#shapes.has(name), `two values are called ${name}`)
    this.#inputs.push({ name, type, shape })
    this.#shapes.set(name, shape)
    this.#place(name, shape)
    return name
  }

  /** `name` becomes an output. It must be a value of this name already. */
  output(name: string): void {
    this.#outputs.push({ name, type: 'float32', shape: this.shape(name) })
  }

  /** A weight of the file under another type or shape. */
  weight(tensor: ExternalTensor): string {
    this.#weights.set(tensor.name, tensor)
    this.#shapes.set(tensor.name, tensor.dims)
    return tensor.name
  }

  findWeight(name: string): ExternalTensor | undefined {
    return this.#weights.get(name)
  }

  constant(tensor: InlineTensor): string {
    this.#constants.set(tensor.name, tensor)
    this.#shapes.set(tensor.name, tensor.dims)
    return tensor.name
  }

  ints(...values: number[]): string {
    return this.constant({ name: `int64[${values}]`, dims: [values.length], data: BigInt64Array.from(values, BigInt) })
  }

  float(value: number): string {
    return this.constant({ name: `float32:${value}`, dims: [], data: Float32Array.of(value) })
  }

  /**
   * Tells ONNX Runtime the shape of a value of floats. It cannot find out what is reshaped to a computed shape, and where
   * it does not know that two sizes are equal it uses no memory again.
   */
  say(value: string): string {
    this.#said.add(value)
    return value
  }

  /** `x`, floats, in another shape of as many numbers. */
  reshape(x: string, to: Shape, name: string): string {
    const from = this.shape(x)
    if (from.length === to.length && from.every((dim, at) => dim === to[at])) return x
    const dims = to.map((dim, at) => (typeof dim === 'number' ? dim : dim === from[at] ? 0 : -1))
    const vector = dims.filter((dim) => dim === -1).length <= 1 ? this.ints(...dims) : this.shapeVector(to)
    return this.say(this.node('Reshape', name, [x, vector], {}, to))
  }

  /** The shape as a value of int64. Reads only inputs of the graph, so that no activation lives on for its shape's sake. */
  shapeVector(shape: Shape): string {
    if (shape.every((dim) => typeof dim === 'number')) return this.ints(...(shape as number[]))
    return this.#once(`shape[${shape}]`, (name) =>
      this.node(
        'Concat',
        name,
        shape.map((dim) => (typeof dim === 'number' ? this.ints(dim) : this.#size(dim))),
        { axis: 0 },
      ),
    )
  }

  /** `x` with all but its last axis in one: [n, last]. */
  rows(x: string): string {
    const shape = this.shape(x)
    return this.#once(`${x}.rows`, (name) =>
      this.reshape(x, [product(shape.slice(0, -1)), shape.at(-1) as Shape[number]], name),
    )
  }

  zeros(shape: Shape, name: string): string {
    return this.node('ConstantOfShape', name, [this.shapeVector(shape)], {}, shape)
  }

  /**
   * `x`, but not before each of `values` is computed: x reshaped to shape(x) + Σ 0, the zeros made of `values`. ONNX Runtime
   * runs a graph depth first from its last output, so that whatever only the end needs waits, with all that it holds, for
   * the end. Nothing is copied: a Reshape is a view.
   */
  after(x: string, values: readonly string[], name: string): string {
    if (values.length === 0) return x
    const zero = values
      .map((value) => this.#once(`${value}.zero`, (free) => this.#zeroOf(value, free)))
      .reduce((total, one, at) => this.node('Add', `${name}.zeros.${at}`, [total, one]))
    const shape = this.shape(x)
    const dims = shape.every((dim) => typeof dim === 'number')
      ? this.ints(...(shape as number[]))
      : this.node('Shape', `${name}.shape`, [x])
    return this.node('Reshape', name, [x, this.node('Add', `${name}.dims`, [dims, zero])], {}, shape)
  }

  /** An int64 0 that nobody knows before `value` is there: 0·size, or v < v for a number of it where its size is known. */
  #zeroOf(value: string, name: string): string {
    if (this.shape(value).some((dim) => typeof dim === 'string')) {
      const none = this.constant({ name: 'int64:0', dims: [], data: BigInt64Array.of(0n) })
      return this.node('Mul', name, [this.node('Size', `${name}.size`, [value]), none])
    }
    const flat = this.node('Reshape', `${name}.flat`, [value, this.ints(-1)])
    const first = this.node('Gather', `${name}.first`, [flat, this.ints(0)], { axis: 0 })
    return this.node('Cast', name, [this.node('Less', `${name}.less`, [first, first])], { to: INT64 })
  }

  /** Sum over what `x` was broadcast to, from `to`. */
  reduceTo(x: string, to: Shape, name: string): string {
    const from = this.shape(x)
    const extra = from.length - to.length
    const axes = from.flatMap((dim, at) => (at < extra || (to[at - extra] === 1 && dim !== 1) ? [at] : []))
    if (axes.length === 0) return x
    const sum = this.node('ReduceSum', name, [x, this.ints(...axes)], { keepdims: 1 })
    return extra === 0 ? sum : this.reshape(sum, this.shape(sum).slice(extra), `${name}.shaped`)
  }

  /** `x` repeated to the shape `to`. */
  expand(x: string, to: Shape, name: string): string {
    const from = this.shape(x)
    if (from.length === to.length && from.every((dim, at) => dim === to[at])) return x
    return this.node('Expand', name, [x, this.shapeVector(to)], {}, to)
  }

  /** The graph, with only what its outputs need. */
  build(): Graph {
    const outputs = new Set(this.#outputs.map(({ name }) => name))
    const needed = new Set(outputs)
    const kept: Node[] = []
    for (const node of this.#nodes.toReversed()) {
      if (!node.outputs.some((output) => needed.has(output))) continue
      kept.push(node)
      for (const value of node.inputs) needed.add(value)
    }
    return {
      ...this.#graph,
      inputs: this.#inputs.filter(({ name }) => needed.has(name)),
      outputs: this.#outputs,
      constants: [...this.#constants.values()].filter(({ name }) => needed.has(name)),
      weights: [...this.#weights.values()].filter(({ name }) => needed.has(name)),
      nodes: kept.reverse(),
      values: [...this.#said]
        .filter((name) => needed.has(name) && !outputs.has(name))
        .map((name) => ({ name, type: 'float32' as const, shape: this.shape(name) })),
    }
  }

  /** [1], the run-time size of a named dimension; of a product of them too. */
  #size(dim: string): string {
    return this.#once(`size:${dim}`, (name) => {
      const place = this.#places.get(dim)
      if (place !== undefined) {
        return this.node('Shape', name, [place.input], { start: place.axis, end: place.axis + 1 })
      }
      const parts = dim.split('*').map((part) => (/^\d+$/.test(part) ? this.ints(Number(part)) : this.#size(part)))
      assert(parts.length > 1, `no input tells the size ${dim}`)
      return parts.reduce((total, part, at) => this.node('Mul', `${name}.${at}`, [total, part]))
    })
  }

  #place(input: string, shape: Shape): void {
    shape.forEach((dim, axis) => {
      if (typeof dim === 'string' && !this.#places.has(dim)) this.#places.set(dim, { input, axis })
    })
  }

  #once(key: string, make: (name: string) => string): string {
    const there = this.#made.get(key)
    if (there !== undefined) return there
    const made = make(key)
    this.#made.set(key, made)
    return made
  }

  #free(name: string): string {
    if (!this.#shapes.has(name) && !this.#shapes.has(`${name}.0`)) return name
    for (let count = 2; ; count += 1) {
      const next = `${name}~${count}`
      if (!this.#shapes.has(next) && !this.#shapes.has(`${next}.0`)) return next
    }
  }
}
