// Builds a graph node by node. A value is its name; every node's output is named after the node.
import { assert } from '../errors.ts'
import type {
  Attribute,
  Dimension,
  ElementType,
  ExternalTensor,
  Graph,
  InlineTensor,
  Node,
  ValueInfo,
} from '../onnx/model.ts'

export class GraphBuilder {
  readonly #name: string
  readonly #inputs: ValueInfo[] = []
  readonly #outputs: ValueInfo[] = []
  readonly #constants = new Map<string, InlineTensor>()
  readonly #available: ReadonlyMap<string, ExternalTensor>
  readonly #weights = new Map<string, ExternalTensor>()
  readonly #nodes: Node[] = []
  readonly #values = new Set<string>()
  readonly #publicNames = new Map<string, string>()

  /** `weights`: the external tensors that the graph may use; those that it does use end up in it. */
  constructor(name: string, weights: readonly ExternalTensor[]) {
    this.#name = name
    this.#available = new Map(weights.map((weight) => [weight.name, weight]))
  }

  input(name: string, type: ElementType, shape: readonly Dimension[]): string {
    this.#define(name)
    this.#inputs.push({ name, type, shape })
    return name
  }

  /** A node with one output, whose value carries the node's name. An empty input is one that the operator may lack. */
  node(
    op: string,
    name: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
    domain?: string,
  ): string {
    const [value = ''] = this.#add(op, name, inputs, [name], attributes, domain)
    return value
  }

  /** A node with several outputs, empty for those that are not wanted: values called after the node and the place. */
  many(
    op: string,
    name: string,
    inputs: readonly string[],
    wanted: readonly boolean[],
    attributes: Readonly<Record<string, Attribute>> = {},
    domain?: string,
  ): readonly string[] {
    const outputs = wanted.map((isWanted, at) => (isWanted ? `${name}.${at}` : ''))
    return this.#add(op, name, inputs, outputs, attributes, domain)
  }

  /** Split with two outputs. `inputs`: the value and, where the halves differ, the sizes. */
  split(name: string, inputs: readonly string[], axis: number): [string, string] {
    const halves: Record<string, Attribute> = inputs.length === 1 ? { axis, num_outputs: 2 } : { axis }
    const [first = '', second = ''] = this.many('Split', name, inputs, [true, true], halves)
    return [first, second]
  }

  weight(name: string): string {
    const weight = this.#available.get(name)
    assert(weight !== undefined, `there is no weight ${name}`)
    this.#weights.set(name, weight)
    return name
  }

  /** The weight of this name, if the graph may use one. */
  find(name: string): ExternalTensor | undefined {
    return this.#available.get(name)
  }

  /** Whether a value of this name is computed already. */
  has(value: string): boolean {
    return this.#values.has(value)
  }

  /** int64, one-dimensional. Equal constants are one. */
  ints(...values: number[]): string {
    return this.#constant(`int64[${values}]`, [values.length], BigInt64Array.from(values, BigInt))
  }

  int(value: number): string {
    return this.#constant(`int64:${value}`, [], BigInt64Array.of(BigInt(value)))
  }

  float(value: number): string {
    return this.#constant(`float32:${value}`, [], Float32Array.of(value))
  }

  floats(name: string, dims: readonly number[], values: readonly number[]): string {
    return this.#constant(name, dims, Float32Array.from(values))
  }

  /** Makes `value` an output called `name`. It is renamed wherever it is used: an Identity would be one more node. */
  output(name: string, value: string, type: ElementType, shape: readonly Dimension[]): void {
    assert(this.#values.has(value), `the output ${name} is computed by no node`)
    if (name !== value) {
      this.#define(name)
      this.#publicNames.set(value, name)
    }
    this.#outputs.push({ name, type, shape })
  }

  build(): Graph {
    const rename = (value: string) => this.#publicNames.get(value) ?? value
    return {
      name: this.#name,
      inputs: this.#inputs,
      outputs: this.#outputs,
      constants: [...this.#constants.values()],
      weights: [...this.#weights.values()],
      nodes: this.#nodes.map((node) => ({
        ...node,
        inputs: node.inputs.map(rename),
        outputs: node.outputs.map(rename),
      })),
    }
  }

  #add(
    op: string,
    name: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>>,
    domain?: string,
  ): readonly string[] {
    for (const input of inputs) {
      const known = input === '' || this.#values.has(input) || this.#constants.has(input) || this.#weights.has(input)
      assert(known, `${name} reads ${input} before it exists`)
    }
    for (const output of outputs) if (output !== '') this.#define(output)
    this.#nodes.push({ op, ...(domain === undefined ? {} : { domain }), name, inputs, outputs, attributes })
    return outputs
  }

  #constant(name: string, dims: readonly number[], data: Float32Array | BigInt64Array): string {
    this.#constants.set(name, { name, dims, data })
    return name
  }

  #define(value: string): void {
    assert(!this.#values.has(value), `two values are called ${value}`)
    this.#values.add(value)
  }
}
