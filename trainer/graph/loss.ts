// Cross-entropy, a piece of the targets at a time, forward and backward. The logits of all targets would be the largest
// tensor of a step: 1,024 targets of 49,152 words are 200 MB, and as much again for each step of their gradient.
//
//   L = Σᵢ wᵢ·(−ln softmax(zᵢ)[tᵢ])          ∂L/∂zᵢ = wᵢ·(softmax(zᵢ) − onehot(tᵢ))
//
// A piece waits for the loss and the gradient of the one before it. Where the head is frozen, wᵢ is left out of ∂L/∂zᵢ
// and multiplied at the narrow end: everything between is linear in the gradient, row by row.
import type { Node } from '../../compiler/onnx/model.ts'
import { differentiate, reachedFrom } from '../autodiff/differentiate.ts'
import type { GraphWriter } from '../autodiff/writer.ts'
import { writeByRows } from './forward.ts'
import { trainingNames as names } from './names.ts'
import { LOGITS, SELECTED } from './training-form.ts'
import { unpackWeight } from './unpack.ts'

export interface LossInput {
  /** From the selection of hidden states to the logits. */
  readonly tail: readonly Node[]
  /** The hidden states. */
  readonly hidden: string
  /** Name of the head's weight. */
  readonly head: string
  readonly pieces: number
  /** Whether a trainable value reaches `hidden`; `undefined` where no gradients are wanted. */
  readonly isReached: boolean | undefined
  readonly trainable: readonly string[]
  /** ∂L/∂ of `hidden`, and of what is trained in the head, go here. */
  readonly gradients: Map<string, string>
}

const ADD = { reduction: { string: 'add' } } as const

export function writeLoss(w: GraphWriter, input: LossInput): void {
  const { hidden, head, pieces, gradients, isReached } = input
  const [places, targets, weights] = [names.targetPlaces, names.targets, names.targetWeights].map((value) =>
    pieces === 1 ? [value] : w.nodes('Split', `${value}.pieces`, [value], pieces, { axis: 0, num_outputs: pieces }),
  )
  const matrix = unpackWeight(w, head)?.(hidden)
  // ONNX Runtime gives each reader of a DequantizeLinear one of its own; of a view it does not.
  const unpacked = matrix && w.say(w.after(matrix, [hidden], 'lm_head.unpacked'))
  const losses: string[] = []
  let slope = isReached === true ? w.zeros(w.shape(hidden), 'grad/hidden/zeros') : undefined
  let done: string[] = []
  for (let piece = 0; piece < pieces; piece += 1) {
    const of = (values: readonly string[] | undefined) => values?.[piece] as string
    const place = w.after(of(places), done, `piece.${piece}/places`)
    const found = writePiece(w, input, {
      prefix: `piece.${piece}/`,
      place,
      target: of(targets),
      weight: of(weights),
      unpacked,
    })
    losses.push(found.loss)
    done = [found.loss]
    if (slope === undefined || found.slope === undefined) continue
    slope = w.node('ScatterND', `piece.${piece}/d_hidden`, [slope, place, found.slope], ADD)
    done = [found.loss, slope]
  }
  if (slope !== undefined) gradients.set(hidden, slope)
  const sum = losses.reduce((total, loss, at) => w.node('Add', `loss.sum.${at}`, [total, loss]))
  w.add({ op: 'Reshape', name: names.loss, inputs: [sum, scalarShape(w)], outputs: [names.loss], attributes: {} }, [[]])
  w.output(names.loss)
}

const scalarShape = (w: GraphWriter) => w.constant({ name: 'int64[]', dims: [0], data: new BigInt64Array() })

interface Piece {
  readonly prefix: string
  readonly place: string
  readonly target: string
  readonly weight: string
  /** The head's weight as floats, where it is stored otherwise: once for all pieces. */
  readonly unpacked: string | undefined
}

function writePiece(w: GraphWriter, input: LossInput, piece: Piece): { loss: string; slope: string | undefined } {
  const { trainable, gradients, isReached } = input
  const at = (part: string) => `${piece.prefix}${part}`
  const nodes = writeHead(w, input.tail, piece)
  const [logits, selected] = [at(LOGITS), at(SELECTED)]
  const logs = w.node('LogSoftmax', at('log_softmax'), [logits], { axis: -1 })
  const index = w.node('Unsqueeze', at('index'), [piece.target, w.ints(-1)])
  const weight = w.node('Unsqueeze', at('weight'), [piece.weight, w.ints(-1)])
  const picked = w.node('GatherElements', at('picked'), [logs, index], { axis: 1 })
  const minus = w.node('Neg', at('minus'), [w.node('Mul', at('weighed'), [picked, weight])])
  const loss = w.node('ReduceSum', at('loss'), [minus, w.ints(0, 1)], { keepdims: 0 })
  if (isReached === undefined) return { loss, slope: undefined }
  const one = w.node('Sub', at('minus_one'), [w.node('Mul', at('nothing'), [weight, w.float(0)]), w.float(1)])
  const inputs = [w.node('Exp', at('softmax'), [logs]), index, one]
  const apart = w.node('ScatterElements', at('apart'), inputs, { axis: 1, ...ADD })
  const later = nodes.filter(({ name }) => name !== selected)
  const isTrained = later.some((node) => node.inputs.some((value) => trainable.includes(value)))
  const own = new Map([[logits, isTrained ? w.node('Mul', at('d_logits'), [apart, weight]) : apart]])
  for (const name of trainable) if (gradients.has(name)) own.set(name, gradients.get(name) as string)
  const reached = reachedFrom(later, isReached ? [...trainable, selected] : trainable)
  differentiate({ w, nodes: later, reached, gradients: own })
  for (const name of trainable) if (own.has(name)) gradients.set(name, own.get(name) as string)
  const slope = own.get(selected)
  if (slope === undefined || isTrained) return { loss, slope }
  return { loss, slope: w.node('Mul', at('d_selected'), [w.expand(slope, w.shape(selected), at('whole')), weight]) }
}

/** The copies of the tail's nodes, the head's product by the unpacked weight. */
function writeHead(w: GraphWriter, tail: readonly Node[], { prefix, place, unpacked }: Piece): readonly Node[] {
  const from = w.written.length
  const given = new Map<string, string>([[names.targetPlaces, place]])
  const rename = (value: string) => given.get(value) ?? value
  for (const node of tail) {
    for (const output of node.outputs) given.set(output, `${prefix}${output}`)
    if (unpacked !== undefined && node.name === 'lm_head.MatMul') {
      writeByRows(w, rename(node.inputs[0] as string), unpacked, rename(node.outputs[0] as string))
      continue
    }
    const copy = {
      ...node,
      name: `${prefix}${node.name}`,
      inputs: node.inputs.map(rename),
      outputs: node.outputs.map(rename),
    }
    w.add(copy)
  }
  return w.written.slice(from)
}
