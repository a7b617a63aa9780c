// The graph of one training step: the loss, and the gradients of what is trained, in an order that keeps memory low.
//
//   layers 0 … L − 1 forward → loss, piece by piece → layers L − 1 … 0 backward
import { type Decoder, HEAD } from '../../compiler/checkpoint/decoder.ts'
import { layoutOf } from '../../compiler/checkpoint/families/families.ts'
import { assert } from '../../compiler/errors.ts'
import { buildDecoder } from '../../compiler/graph/decoder.ts'
import { LOCAL_ROPE_TABLE, type PlannedWeight, ROPE_TABLE } from '../../compiler/graph/weights.ts'
import type { Graph } from '../../compiler/onnx/model.ts'
import { reachedFrom } from '../autodiff/differentiate.ts'
import { GraphWriter } from '../autodiff/writer.ts'
import type { LoraSpec } from '../lora/spec.ts'
import { writeBackward } from './backward.ts'
import { type Again, indexOf, writeForward } from './forward.ts'
import { writeLoss } from './loss.ts'
import { trainingNames as names } from './names.ts'
import { makeTrainingForm, SELECTED } from './training-form.ts'

/** Factors beside frozen weights; or, to compare with, every weight itself. */
export type Trained = { readonly lora: LoraSpec } | { readonly full: true }

export interface LearnOptions {
  /** Pieces that the targets come in; their number is a multiple of it. */
  readonly pieces: number
  /** Compute each layer's activations a second time instead of keeping them. */
  readonly recompute: boolean
  /** Without, the graph gives the loss alone. */
  readonly gradients: boolean
}

export interface LearnGraph {
  readonly graph: Graph
  /** Inputs that are trained, in the order of the model. */
  readonly trainable: readonly string[]
  /** DoRA: outputs with the norms that the magnitudes begin as. */
  readonly norms: readonly string[]
}

export function buildLearnGraph(
  config: Decoder,
  plan: readonly PlannedWeight[],
  trained: Trained,
  { pieces, recompute, gradients: wantsGradients }: LearnOptions,
): LearnGraph {
  const plain = buildDecoder(config, plan, 'train', makeTrainingForm)
  const thawed = 'full' in trained ? plain.weights.filter(({ name }) => !TABLES.has(name)) : []
  const w = new GraphWriter({
    ...plain,
    nodes: [],
    outputs: [],
    inputs: [...plain.inputs, ...thawed.map(({ name, dims }) => ({ name, type: 'float32' as const, shape: dims }))],
    weights: plain.weights.filter((weight) => !thawed.includes(weight)),
  })
  w.input(names.targets, 'int64', ['targets'])
  w.input(names.targetWeights, 'float32', ['targets'])
  const again: Again = new Map()
  const forward = writeForward(w, config, plain, 'lora' in trained ? trained.lora : undefined, again)
  const { attached, prelude, segments } = forward
  const trainable = [...thawed.map(({ name }) => name), ...attached.flatMap((one) => one.trainable)]
  const fixed = new Set(attached.flatMap((one) => one.fixed))
  const body = [...prelude, ...segments.flatMap(({ nodes }) => nodes)]
  const reached = reachedFrom(body, trainable, fixed)
  const hidden = segments.at(-1)?.output ?? ''
  const gradients = new Map<string, string>()
  writeLoss(w, {
    tail: plain.nodes.slice(indexOf(plain, SELECTED)),
    hidden,
    head: config.tiedHead ? layoutOf(config.architecture).embedding : HEAD,
    pieces,
    isReached: wantsGradients ? reached.has(hidden) : undefined,
    trainable,
    gradients,
  })
  const norms = wantsGradients ? [...fixed] : []
  if (wantsGradients) {
    writeBackward(w, { prelude, segments, reached, trainable, fixed, again, gradients, recompute })
    for (const name of trainable) writeGradient(w, name, gradients.get(name))
    for (const name of norms) w.output(name)
  }
  const graph = w.build()
  refuseFrozenGradients(graph, trainable)
  return { graph, trainable, norms }
}

const TABLES: ReadonlySet<string> = new Set([ROPE_TABLE, LOCAL_ROPE_TABLE])

function writeGradient(w: GraphWriter, name: string, gradient: string | undefined): void {
  assert(gradient !== undefined, `${name} has no gradient`)
  const shape = w.shape(name)
  const whole = w.expand(gradient, shape, `grad/${name}/whole`)
  const output = names.gradient(name)
  // A view under the name that callers know.
  w.add({ op: 'Reshape', name: output, inputs: [whole, w.shapeVector(shape)], outputs: [output], attributes: {} }, [
    shape,
  ])
  w.output(output)
}

/** Our promise about a frozen base, checked on each graph: the gradients that it computes are those of what is trained. */
export function refuseFrozenGradients({ weights, nodes, outputs }: Graph, trainable: readonly string[]): void {
  const isTrained = new Set(trainable)
  const values = new Set(nodes.flatMap((node) => node.outputs))
  for (const { name } of weights) {
    assert(!isTrained.has(name), `${name} is trained, and frozen`)
    const gradient = [names.gradient(name), `grad/${name}/sum`, `grad/${name}/whole`].find((value) => values.has(value))
    assert(gradient === undefined, `the frozen weight ${name} has a gradient`)
  }
  const wanted = new Set(trainable.map(names.gradient))
  for (const { name } of outputs) {
    assert(
      !name.startsWith(names.gradient('')) || wanted.has(name),
      `${name} is the gradient of nothing that is trained`,
    )
  }
}
