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
import { isWhole, type Site } from './linear.ts'

const FLOAT = 1
const INT64 = 7
const CODES: Readonly<Record<string, number>> = { float32: FLOAT, float16: 10, bfloat16: 16 }

/** Opset from which Slice, Pad and Concat take what a fused linear needs: sizes as inputs, axes from the end. */
const FUSED_OPSET = 11

/** Throws `InputError` where a linear cannot have such a path, or a name that would be added is there already. */
export function attachPaths(model: SurgeryModel, sites: readonly Site[], target: 'routed' | 'stacked'): Edits {
  const nodes = new Map<number, Uint8Array[]>()
  const added: Added = { inputs: new Map(), tensors: new Map(), names: new Set() }
  if (target === 'routed' && sites.length > 0) {
    added.inputs.set(graphNames.adapterSlots, valueInfo(graphNames.adapterSlots, INT64, ['batch']))
  }
  const paths = sites.map((site, index) => new Path(site, `sidepath.${index}.${site.module}`))
  for (const group of Map.groupBy(paths, ({ site }) => site.node).values()) {
    nodes.set((group[0] as Path).site.node.at, besideNode(model, group, target, added))
  }
  for (const name of [...added.names, ...added.inputs.keys(), ...added.tensors.keys()]) {
    if (!model.names.has(name)) continue
    throw inputError(
      'onnx-unsupported',
      `${model.file}: the name ${quote(name)} is there already, and a path needs it; give the graph as it was exported`,
    )
  }
  return { nodes, tensors: new Map(), inputs: [...added.inputs.values()], newTensors: [...added.tensors.values()] }
}

interface Added {
  readonly inputs: Map<string, Uint8Array>
  readonly tensors: Map<string, Uint8Array>
  readonly names: Set<string>
}

/** The node, the paths of all modules that it computes, and their sum under the name that its output had. */
function besideNode(
  model: SurgeryModel,
  paths: readonly Path[],
  target: 'routed' | 'stacked',
  added: Added,
): Uint8Array[] {
  const sorted = paths.toSorted((a, b) => a.site.columns.nodeFrom - b.site.columns.nodeFrom)
  const [first] = sorted
  if (first === undefined) return []
  const isFused = sorted.some(({ site }) => !isWhole(site))
  const opset = model.summary.opsets.find(({ domain }) => domain === '' || domain === 'ai.onnx')?.version ?? 0
  if (isFused && opset < FUSED_OPSET) {
    throw inputError(
      'onnx-unsupported',
      `${model.file}: ${first.site.module} is fused and the opset is ${opset}; a path beside it needs ${FUSED_OPSET}, export again`,
    )
  }
  let at = 0
  const deltas = sorted.map((path, index) => {
    const { nodeFrom, width } = path.site.columns
    // What no adapter changes goes to the part before it, or after it at the start, as zeros.
    const end = sorted[index + 1]?.site.columns.nodeFrom ?? path.site.out
    if (nodeFrom < at || nodeFrom + width > end) throw overlap(sorted.map(({ site }) => site))
    const zeros = { before: nodeFrom - at, after: end - nodeFrom - width }
    at = end
    return target === 'routed' ? addRouted(path, zeros, added) : addStacked(path, zeros, added)
  })
  const [only = ''] = deltas
  const delta = deltas.length === 1 ? only : first.add('Concat', deltas, 'parts', [intAttribute('axis', -1)])
  first.finish(delta)
  for (const name of sorted.flatMap(({ names }) => names)) added.names.add(name)
  return [first.frozen(), ...sorted.slice(1).flatMap(({ nodes }) => nodes), ...first.nodes]
}

function overlap(sites: readonly Site[]) {
  const names = sites.map(({ module }) => module).join(', ')
  return inputError(
    'onnx-unsupported',
    `${sites[0]?.file}: ${names} lie in the same columns of one linear; give adapters that name them in one way`,
  )
}

interface Zeros {
  readonly before: number
  readonly after: number
}

function addRouted(path: Path, zeros: Zeros, { inputs, tensors }: Added): string {
  const { module, file, in: inSize, moduleOut, node } = path.site
  if (node.op === 'Gemm') {
    throw inputError(
      'onnx-unsupported',
      `${file}: ${module} is a Gemm, whose rows do not say to which batch row they belong; take --target stacked, or merge`,
    )
  }
  const [A, B] = [graphNames.bankA(module), graphNames.bankB(module)]
  inputs.set(A, valueInfo(A, FLOAT, ['slots', inSize, 'rank']))
  inputs.set(B, valueInfo(B, FLOAT, ['slots', 'rank', moduleOut]))
  // [batch, length, in] or nothing: with rows alone, a slot a row would broadcast to another model without a word.
  const shape = `sidepath.shape.${inSize}`
  tensors.set(shape, integers(shape, [0, 0, inSize]))
  const x = path.add('Reshape', [path.x(), shape], 'x')
  const a = path.add('Gather', [A, graphNames.adapterSlots], 'lora_A')
  const low = path.add('MatMul', [x, a], 'lora_A.MatMul')
  const b = path.add('Gather', [B, graphNames.adapterSlots], 'lora_B')
  return path.add('MatMul', [low, columnsOf(path, b, zeros, 3, tensors)], 'lora_B.MatMul')
}

function addStacked(path: Path, zeros: Zeros, { inputs, tensors }: Added): string {
  const { module, in: inSize, moduleOut } = path.site
  const [A, B] = [graphNames.stackA(module), graphNames.stackB(module)]
  inputs.set(A, valueInfo(A, FLOAT, [inSize, `${module}.rank`]))
  inputs.set(B, valueInfo(B, FLOAT, [`${module}.rank`, moduleOut]))
  const low = path.add('MatMul', [path.x(), A], 'lora_A.MatMul')
  return path.add('MatMul', [low, columnsOf(path, B, zeros, 2, tensors)], 'lora_B.MatMul')
}

/** Of lora_B: the columns that this node computes, with zeros for those of others. */
function columnsOf(path: Path, B: string, { before, after }: Zeros, rank: number, tensors: Map<string, Uint8Array>) {
  const { columns, moduleOut } = path.site
  const constant = (values: readonly number[]) => {
    const name = `sidepath.integers.${values.join('.')}`
    tensors.set(name, integers(name, values))
    return name
  }
  let b = B
  if (columns.width !== moduleOut) {
    const [from, to] = [columns.moduleFrom, columns.moduleFrom + columns.width]
    b = path.add('Slice', [b, constant([from]), constant([to]), constant([-1])], 'lora_B.columns')
  }
  if (before === 0 && after === 0) return b
  const pads = [before, after].flatMap((count) => [...Array.from({ length: rank - 1 }, () => 0), count])
  return path.add('Pad', [b, constant(pads)], 'lora_B.padded')
}

class Path {
  readonly site: Site
  readonly names: string[] = []
  readonly nodes: Uint8Array[] = []
  readonly #prefix: string
  readonly #code: number

  constructor(site: Site, prefix: string) {
    const { node, file, module, type } = site
    const code = CODES[type]
    if (code === undefined) {
      throw inputError(
        'onnx-unsupported',
        `${file}: ${module} computes in ${type}; a path is made beside ${Object.keys(CODES).join(', ')}`,
      )
    }
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
    this.nodes.push(concatBytes([...texts, ...attributes.map((attribute) => field(5, attribute))]))
    return given
  }

  /** Adds the delta to what the node gives, under the name that its output had. */
  finish(sum: string): void {
    const isFloat = this.#code === FLOAT
    const delta = isFloat ? sum : this.add('Cast', [sum], 'delta', [intAttribute('to', this.#code)])
    this.names.push(this.#base)
    this.add('Add', [this.#base, delta], 'sum', [], this.site.node.outputs[0])
  }

  /** The node as it was but for the name of its output. */
  frozen(): Uint8Array {
    return renameOutput(this.site.node, this.#base, this.site.file)
  }

  get #base(): string {
    return `${this.#prefix}.base`
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

function integers(name: string, values: readonly number[]): Uint8Array {
  const raw = new Uint8Array(values.length * 8)
  const view = new DataView(raw.buffer)
  for (const [index, value] of values.entries()) view.setBigInt64(index * 8, BigInt(value), true)
  return concatBytes([varintField(1, values.length), varintField(2, INT64), field(8, name), field(9, raw)])
}
