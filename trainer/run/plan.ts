// What a run would take, before it begins: trained parameters, memory and arithmetic, from the shapes alone.
//
// Per token and matrix [out, in] that is frozen: 2·in·out for y, and as much for ∂L/∂x; its own gradient, as much again, is
// what LoRA does not compute. Attention adds 4·s·d per token and layer for a row of s, half of it masked but computed.
import type { Decoder } from '../../compiler/checkpoint/decoder.ts'
import { layerLinears, requiredTensors } from '../../compiler/checkpoint/names.ts'
import { planWeights } from '../../compiler/graph/weights.ts'
import type { LoraSpec } from '../lora/spec.ts'
import type { TrainOptions } from './options.ts'
import { piecesFor } from './pieces.ts'

/** Node, this program and ONNX Runtime with a small graph, measured. */
const PROCESS_BYTES = 200 * 2 ** 20
const FLOAT = 4
/** P, its gradient, and two moments. */
const COPIES = 4

export interface Plan {
  /** Of the base, what LoRA trains, and what full fine-tuning would. */
  readonly baseParameters: number
  readonly trainable: number
  readonly memory: {
    readonly weightsBytes: number
    readonly trainedBytes: number
    readonly activationBytes: number
    readonly totalBytes: number
    /** The same for full fine-tuning. */
    readonly fullBytes: number
  }
  /** Floating-point operations of one step, and of all. */
  readonly stepOperations: number
  readonly operations: number
  readonly stepTokens: number
}

/** `rowTokens`: of a row as the data has them, padding included; `targets`: of those that are predicted. */
export function planRun(
  config: Decoder,
  spec: LoraSpec,
  options: TrainOptions,
  rowTokens: number,
  targets: number,
): Plan {
  const { architecture } = config
  const { hiddenSize, layers, heads, headDim, vocabSize, intermediateSize } = architecture
  const baseParameters = [...requiredTensors(config).values()].reduce((sum, shape) => sum + count(shape), 0)
  const trainable = spec.modules.reduce(
    (sum, { linear, r }) => sum + r * (linear.in + linear.out) + (spec.dora ? linear.out : 0),
    0,
  )
  const weightsBytes = planWeights(config, options.quantise)
    .filter(({ from }) => from.how !== 'alias')
    .reduce((sum, { bytes }) => sum + bytes, 0)
  const tokens = options.batchSize * rowTokens
  const linears = layerLinears(architecture)
  // What the backward pass reads of each layer: the inputs of its linears, its norms, queries, keys, values and probabilities.
  const perToken = layerLinears({ ...architecture, layers: 1 }).reduce((sum, linear) => sum + linear.in + linear.out, 0)
  const kept =
    FLOAT * tokens * (perToken + 4 * hiddenSize + 2 * intermediateSize + 3 * heads * rowTokens + 4 * heads * headDim)
  const boundary = FLOAT * tokens * hiddenSize
  const activations = options.recompute ? layers * boundary + kept : layers * kept
  const pieces = piecesFor(vocabSize, options.batchSize * options.maxLength)
  const logits = (3 * FLOAT * vocabSize * targets * options.batchSize) / pieces
  const largest = Math.max(...linears.map((linear) => linear.in * linear.out))
  const unpacked = options.quantise === undefined ? 0 : 2 * FLOAT * Math.max(largest, vocabSize * hiddenSize)
  const activationBytes = activations + logits + unpacked
  const trainedBytes = COPIES * FLOAT * trainable
  const body = linears.reduce((sum, linear) => sum + linear.in * linear.out, 0)
  const attention = layers * 4 * rowTokens * heads * headDim
  const passes = options.recompute ? 3 : 2
  const perStep =
    tokens * (passes * (2 * body + attention) + 6 * trainable) +
    4 * targets * options.batchSize * vocabSize * hiddenSize
  return {
    baseParameters,
    trainable,
    memory: {
      weightsBytes,
      trainedBytes,
      activationBytes,
      totalBytes: PROCESS_BYTES + weightsBytes + trainedBytes + activationBytes,
      fullBytes: PROCESS_BYTES + (COPIES + 1) * FLOAT * baseParameters + activationBytes,
    },
    stepOperations: perStep * options.accumulation,
    operations: perStep * options.accumulation * options.steps,
    stepTokens: tokens * options.accumulation,
  }
}

const count = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)
