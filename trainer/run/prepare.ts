// From a base and options to graphs that can be run: weights and graphs written, factors drawn.

import { transpose } from '../../compiler/adapter/low-rank.ts'
import { digestBase } from '../../compiler/checkpoint/digest.ts'
import { layoutOf } from '../../compiler/checkpoint/families/families.ts'
import type { Checkpoint } from '../../compiler/checkpoint/read.ts'
import { assert } from '../../compiler/errors.ts'
import { planWeights } from '../../compiler/graph/weights.ts'
import { writeFile } from '../../compiler/hashed-file.ts'
import { encodeModel } from '../../compiler/onnx/encode.ts'
import { readFloats } from '../../compiler/safetensors/stream.ts'
import { writeWeights } from '../../compiler/write-weights.ts'
import { buildLearnGraph, type LearnGraph } from '../graph/learn.ts'
import { selectLora } from '../lora/select.ts'
import type { LoraSpec } from '../lora/spec.ts'
import type { TrainHost } from './host.ts'
import type { TrainOptions } from './options.ts'
import { piecesFor } from './pieces.ts'

export const TRAIN_GRAPH = 'train.onnx'
export const EVAL_GRAPH = 'eval.onnx'

export interface Prepared {
  readonly spec: LoraSpec
  readonly learn: LearnGraph
  readonly pieces: number
  readonly baseDigest: string
}

/** `onBytes`: of the base, read once for its digest and once for its weights. */
export async function prepare(
  checkpoint: Checkpoint,
  options: TrainOptions,
  host: TrainHost,
  onBytes: (bytes: number) => void,
): Promise<Prepared> {
  const { config } = checkpoint
  const spec = selectLora(config.architecture, options.lora)
  const baseDigest = await digestBase(checkpoint, host, onBytes)
  const plan = planWeights(config, options.quantise)
  const pieces = piecesFor(config.architecture.vocabSize, options.batchSize * options.maxLength)
  const learn = buildLearnGraph(config, plan, { lora: spec }, { pieces, recompute: options.recompute, gradients: true })
  const evaluate = buildLearnGraph(
    config,
    plan,
    { lora: { ...spec, dropout: 0 } },
    { pieces, recompute: false, gradients: false },
  )
  const quantising = options.quantise && { options: options.quantise, onError: () => {} }
  await writeWeights(checkpoint, plan, new Map(), host.work, host, onBytes, undefined, quantising)
  await writeFile(host.work, TRAIN_GRAPH, encodeModel(learn.graph), host)
  await writeFile(host.work, EVAL_GRAPH, encodeModel(evaluate.graph), host)
  return { spec, learn, pieces, baseDigest }
}

/** W [out, in] of a module. */
export async function readWeight({ tensors, config }: Checkpoint, module: string): Promise<Float32Array> {
  const tensor = tensors.get(`${module}.weight`)
  assert(tensor !== undefined, `the checkpoint was opened without ${module}`)
  const values = await readFloats(tensor)
  const [rows = 0, columns = 0] = tensor.shape
  return layoutOf(config.architecture).storesTransposed ? transpose(values, rows, columns) : values
}
