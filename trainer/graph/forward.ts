// The forward pass of a training graph: the decoder's own nodes, with packed weights unpacked and factors beside linears.
import type { Decoder } from '../../compiler/checkpoint/decoder.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import { assert } from '../../compiler/errors.ts'
import { linearNode, linearWeight } from '../../compiler/graph/linear.ts'
import type { Graph, Node } from '../../compiler/onnx/model.ts'
import type { GraphWriter } from '../autodiff/writer.ts'
import type { LoraSpec } from '../lora/spec.ts'
import { type Attached, attachLora } from './attach-lora.ts'
import { trainingNames } from './names.ts'
import { SELECTED } from './training-form.ts'
import { type Unpack, unpackWeight } from './unpack.ts'

/** What is computed again where a gradient needs it, by name. */
export type Again = Map<string, Unpack>

/** A layer: its nodes, and the hidden states that it reads and writes. */
export interface Segment {
  readonly input: string
  readonly output: string
  readonly nodes: readonly Node[]
}

export interface Forward {
  readonly attached: readonly Attached[]
  /** What comes before the first layer. */
  readonly prelude: readonly Node[]
  readonly segments: readonly Segment[]
}

/** Writes `plain` up to the selection of hidden states. */
export function writeForward(
  w: GraphWriter,
  config: Decoder,
  plain: Graph,
  lora: LoraSpec | undefined,
  again: Again,
): Forward {
  const { layers } = config.architecture
  const linears = new Map(layerLinears(config.architecture).map(({ module }) => [linearNode(module), module]))
  const chosen = new Map(lora?.modules.map((module, index) => [module.linear.module, { module, index }]))
  if (lora !== undefined && lora.dropout > 0) {
    w.input(trainingNames.dropoutNoise, 'float32', ['noise'])
    w.input(trainingNames.dropoutStarts, 'int64', ['linears'])
  }
  const attached: Attached[] = []
  const ends = new Map<string, number>()
  let first: { at: number; input: string } | undefined
  for (const node of plain.nodes.slice(0, indexOf(plain, SELECTED))) {
    const [output = ''] = node.outputs
    // The first node of a layer, a norm or a linear, reads what the layer does.
    const isOfLayer =
      node.name.startsWith('layers.0.') || linears.has(node.name.replace(/\.(float|codes|.*_scales\.float)$/, ''))
    if (isOfLayer) first ??= { at: w.written.length, input: node.inputs[0] as string }
    const module = linears.get(node.name)
    const target = module === undefined ? undefined : chosen.get(module)
    // The only range of this form counts the tokens of a row.
    if (module === undefined) w.add(node, node.op === 'Range' ? [['tokens']] : undefined)
    else if (target === undefined || lora === undefined) writeFrozen(w, node, module, output, again)
    else {
      const frozen = writeFrozen(w, node, module, `${module}.frozen`, again)
      attached.push(attachLora(w, target.module, lora, { ...frozen, output }, target.index, again))
      chosen.delete(module)
    }
    if (/^layers\.\d+\.hidden$/.test(output)) ends.set(output, w.written.length)
  }
  assert(chosen.size === 0, `the graph has no linear ${[...chosen.keys()].join(', ')}`)
  assert(first !== undefined && ends.size === layers, `the graph has ${ends.size} layers, not ${layers}`)
  const nodes = [...w.written]
  const starts = [first.at, ...ends.values()]
  const values = [first.input, ...ends.keys()]
  const segments = [...ends].map(([output, end], layer) => ({
    input: values[layer] as string,
    output,
    nodes: nodes.slice(starts[layer], end),
  }))
  return { attached, prelude: nodes.slice(0, first.at), segments }
}

export function indexOf({ nodes }: Graph, name: string): number {
  const at = nodes.findIndex((node) => node.name === name)
  assert(at >= 0, `the graph has no node ${name}`)
  return at
}

/** x·Wᵀ as `output`, whatever W is stored as. */
function writeFrozen(w: GraphWriter, node: Node, module: string, output: string, again: Again) {
  const weight = linearWeight(module)
  const unpack = unpackWeight(w, weight)
  const x = inputOf(w, node)
  if (unpack === undefined) w.add({ ...node, outputs: [output] })
  else {
    const matrix = unpack(x)
    again.set(matrix, unpack)
    writeByRows(w, x, matrix, output)
  }
  return { x, product: output, weight, unpack }
}

/** An affine weight's node adds two products, of which the centred one has x as it is. */
function inputOf(w: GraphWriter, node: Node): string {
  const product = node.op === 'Add' ? w.written.find(({ name }) => name === `${node.name}.centred`) : node
  const x = product?.inputs[0]
  assert(x !== undefined, `${node.name} is no linear`)
  return x
}

/** Y = X·Wᵀ by Gemm, which reads W [out, in] as it is. */
export function writeByRows(w: GraphWriter, x: string, matrix: string, output: string): void {
  const shape = [...w.shape(x).slice(0, -1), w.shape(matrix)[0] as number]
  if (shape.length === 2) {
    w.add({ op: 'Gemm', name: output, inputs: [x, matrix], outputs: [output], attributes: { transB: 1 } })
    return
  }
  const product = w.node('Gemm', `${output}.rows`, [w.rows(x), matrix], { transB: 1 })
  const inputs = [product, w.shapeVector(shape)]
  w.add({ op: 'Reshape', name: output, inputs, outputs: [output], attributes: {} }, [shape])
  w.say(output)
}
