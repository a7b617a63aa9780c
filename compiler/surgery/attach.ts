// The low-rank path beside a linear of an exported graph: the node stays as it is but for the name of its output.
//
//   routed    y = x·W + (x·A[slot])·B[slot]     a bank of slots, one slot a row
//   stacked   y = x·W + (x·A)·B                 the factors of all adapters side by side
//
// The factors are float32 graph inputs; where the graph computes in another type, x and the delta are cast.
import { graphNames } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import type { Edits } from '../onnx/edit.ts'
import type { SurgeryModel, SurgeryNode } from '../onnx/read-graph.ts'
import { concatBytes, field, rawFields, varintField } from '../onnx/splice.ts'
import type { Site } from './linear.ts'

const FLOAT = 1
const INT64 = 7
const CODES: Readonly<Record<string, number>> = { float32: FLOAT, float16: 10, bfloat16: 16 }

/** Throws `InputError` where a linear cannot have such a path, or a name that would be added is there already. */
export function attachPaths(model: SurgeryModel, sites: readonly Site[], target: 'routed' | 'stacked'): Edits {
  const nodes = new Map<number, Uint8Array[]>()
  const inputs = new Map<string, Uint8Array>()
  const tensors = new Map<string, Uint8Array>()
  const added = new Set<string>()
  if (target === 'routed' && sites.length > 0) {
    inputs.set(graphNames.adapterSlots, valueInfo(graphNames.adapterSlots, INT64, ['batch']))
  }
  for (const [index, site] of sites.entries()) {
    const code = CODES[site.type]
    if (code === undefined) {
      throw inputError(
        'onnx-unsupported',
        `${site.file}: ${site.module} computes in ${site.type}; a path is made beside ${Object.keys(CODES).join(', ')}`,
      )
    }
    const path = new Path(site, `sidepath.${index}.${site.module}`, code)
    if (target === 'routed') addRouted(path, inputs, tensors)
    else addStacked(path, inputs)
    nodes.set(site.node.at, path.finish())
    for (const name of path.names) added.add(name)
  }
  for (const name of [...added, ...inputs.keys(), ...tensors.keys()]) {
    if (!model.names.has(name)) continue
    throw inputError(
      'onnx-unsupported',
      `${model.file}: the name ${quote(name)} is there already, and a path needs it; give the graph as it was exported`,
    )
  }
  return { nodes, tensors: new Map(), inputs: [...inputs.values()], newTensors: [...tensors.values()] }
}

function addRouted(path: Path, inputs: Map<string, Uint8Array>, tensors: Map<string, Uint8Array>): void {
  const { module, file, in: inSize, out, node } = path.site
  if (node.op === 'Gemm') {
    throw inputError(
      'onnx-unsupported',
      `${file}: ${module} is a Gemm, whose rows do not say to which batch row they belong; take --target stacked, or merge`,
    )
  }
  const [A, B] = [graphNames.bankA(module), graphNames.bankB(module)]
  inputs.set(A, valueInfo(A, FLOAT, ['slots', inSize, 'rank']))
  inputs.set(B, valueInfo(B, FLOAT, ['slots', 'rank', out]))
  // [batch, length, in] or nothing: with rows alone, a slot a row would broadcast to another model without a word.
  const shape = `sidepath.shape.${inSize}`
  tensors.set(shape, shapeTensor(shape, [0, 0, inSize]))
  const x = path.add('Reshape', [path.x(), shape], 'x')
  const a = path.add('Gather', [A, graphNames.adapterSlots], 'lora_A')
  const low = path.add('MatMul', [x, a], 'lora_A.MatMul')
  const b = path.add('Gather', [B, graphNames.adapterSlots], 'lora_B')
  path.delta = path.add('MatMul', [low, b], 'lora_B.MatMul')
}

function addStacked(path: Path, inputs: Map<string, Uint8Array>): void {
  const { module, in: inSize, out } = path.site
  const [A, B] = [graphNames.stackA(module), graphNames.stackB(module)]
  inputs.set(A, valueInfo(A, FLOAT, [inSize, `${module}.rank`]))
  inputs.set(B, valueInfo(B, FLOAT, [`${module}.rank`, out]))
  const low = path.add('MatMul', [path.x(), A], 'lora_A.MatMul')
  path.delta = path.add('MatMul', [low, B], 'lora_B.MatMul')
}

class Path {
  readonly site: Site
  readonly names: string[] = []
  delta = ''
  readonly #prefix: string
  readonly #code: number
  readonly #nodes: Uint8Array[] = []

  constructor(site: Site, prefix: string, code: number) {
    const { node, file, module } = site
    if (node.outputs.length !== 1 || node.ints.get('transA') === 1) {
      throw inputError(
        'onnx-unsupported',
        `${file}: ${module} has transA or several outputs, which no path is made for`,
      )
    }
    this.site = site
    this.#prefix = prefix
    this.#code = code
  }

  /** What goes into the linear, as float32. */
  x(): string {
    const x = this.site.node.inputs[0] ?? ''
    return this.#code === FLOAT ? x : this.add('Cast', [x], 'x.float', [intAttribute('to', FLOAT)])
  }

  add(op: string, inputs: readonly string[], part: string, attributes: readonly Uint8Array[] = [], output?: string) {
    const name = `${this.#prefix}.${part}`
    const given = output ?? name
    this.names.push(name)
    const texts = [...inputs.map((input) => field(1, input)), field(2, given), field(3, name), field(4, op)]
    this.#nodes.push(concatBytes([...texts, ...attributes.map((attribute) => field(5, attribute))]))
    return given
  }

  /** The node with its output renamed, the path, and their sum under the name that the output had. */
  finish(): Uint8Array[] {
    const { node, file } = this.site
    const base = `${this.#prefix}.base`
    this.names.push(base)
    const frozen = renameOutput(node, base, file)
    const isFloat = this.#code === FLOAT
    const delta = isFloat ? this.delta : this.add('Cast', [this.delta], 'delta', [intAttribute('to', this.#code)])
    this.add('Add', [base, delta], 'sum', [], node.outputs[0])
    return [frozen, ...this.#nodes]
  }
}

function renameOutput(node: SurgeryNode, output: string, file: string): Uint8Array {
  return concatBytes(rawFields(node.payload, file).map(({ number, raw }) => (number === 2 ? field(2, output) : raw)))
}

function intAttribute(name: string, value: number): Uint8Array {
  return concatBytes([field(1, name), varintField(3, value), varintField(20, 2)])
}

function valueInfo(name: string, type: number, shape: readonly (number | string)[]): Uint8Array {
  const dims = shape.map((dim) => field(1, typeof dim === 'number' ? varintField(1, dim) : field(2, dim)))
  const tensorType = concatBytes([varintField(1, type), field(2, concatBytes(dims))])
  return concatBytes([field(1, name), field(2, field(1, tensorType))])
}

function shapeTensor(name: string, values: readonly number[]): Uint8Array {
  const raw = new Uint8Array(values.length * 8)
  const view = new DataView(raw.buffer)
  for (const [index, value] of values.entries()) view.setBigInt64(index * 8, BigInt(value), true)
  return concatBytes([varintField(1, values.length), varintField(2, INT64), field(8, name), field(9, raw)])
}
