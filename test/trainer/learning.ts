// A training graph of a base on this machine: built, its weights written, opened.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Checkpoint, openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { type PlannedWeight, planWeights } from '../../compiler/graph/weights.ts'
import { encodeModel } from '../../compiler/onnx/encode.ts'
import type { Graph } from '../../compiler/onnx/model.ts'
import type { QuantiseOptions } from '../../compiler/quantise/spec.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { isFloatTensor, readFloats } from '../../compiler/safetensors/stream.ts'
import { writeWeights } from '../../compiler/write-weights.ts'
import { nodeHost, openFile, openFolder, stageFolder } from '../../runtime/disk.ts'
import { openSession, type Session } from '../../runtime/node.ts'
import { buildLearnGraph, type LearnGraph, type LearnOptions, type Trained } from '../../trainer/graph/learn.ts'
import { type LoraOptions, selectLora } from '../../trainer/lora/select.ts'
import type { Value } from './interpreter.ts'

export const LORA: LoraOptions = {
  r: 5,
  alpha: 12,
  targetModules: 'all-linear',
  rankPattern: {},
  alphaPattern: {},
  useRslora: false,
  useDora: false,
  init: 'default',
  dropout: 0,
}

export interface Learning extends LearnGraph {
  readonly checkpoint: Checkpoint
  readonly plan: readonly PlannedWeight[]
  readonly session: Session
  /** Where the graph and its weights are. */
  readonly path: string
  [Symbol.asyncDispose](): Promise<void>
}

export interface LearningInput extends Partial<LearnOptions> {
  readonly base: string
  readonly lora?: LoraOptions
  readonly trained?: Trained
  readonly quantise?: QuantiseOptions
}

export async function openLearning({
  base,
  lora = LORA,
  trained,
  quantise,
  ...options
}: LearningInput): Promise<Learning> {
  const checkpoint = await openCheckpoint(openFolder(base))
  const { config } = checkpoint
  const plan = planWeights(config, quantise)
  const built = buildLearnGraph(config, plan, trained ?? { lora: selectLora(config.architecture, lora) }, {
    pieces: 2,
    recompute: false,
    gradients: true,
    ...options,
  })
  const folder = await stageFolder(join((await import('node:os')).tmpdir(), 'sidepath-learning'))
  await writeWeights(
    checkpoint,
    plan,
    new Map(),
    folder,
    nodeHost,
    () => {},
    undefined,
    quantise && { options: quantise, onError: () => {} },
  )
  await writeFile(join(folder.path, 'train.onnx'), encodeModel(built.graph))
  const session = await openSession(join(folder.path, 'train.onnx'), { threads: 1, prepack: false })
  return {
    ...built,
    checkpoint,
    plan,
    session,
    path: folder.path,
    async [Symbol.asyncDispose]() {
      await session.release()
      await checkpoint.close()
      await folder.discard()
    },
  }
}

/** The weights of a graph as the interpreter wants them. */
export async function readWeights(graph: Graph, path: string): Promise<Map<string, Value>> {
  const file = await openFile(join(path, 'model.onnx_data'))
  const values = new Map<string, Value>()
  for (const { name, type, dims, offset, bytes } of graph.weights) {
    if (type !== undefined) throw new Error(`${name} is ${type}`)
    const data = new Float32Array((await file.read(offset, bytes)).buffer)
    values.set(name, { dims, data: Float64Array.from(data) })
  }
  await file.close()
  return values
}

export async function readTensors(
  path: string,
): Promise<Map<string, { shape: readonly number[]; data: Float32Array }>> {
  const file = await openFile(path)
  const found = new Map<string, { shape: readonly number[]; data: Float32Array }>()
  for (const [name, tensor] of (await readHeader(file)).tensors) {
    if (!isFloatTensor(tensor)) throw new Error(`${name} is not of floats`)
    found.set(name, { shape: tensor.shape, data: await readFloats(tensor) })
  }
  await file.close()
  return found
}
