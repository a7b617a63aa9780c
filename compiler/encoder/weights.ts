// Where every weight of an encoder lies in model.onnx_data, and how it gets there: tensor by tensor, merging on the way.
import type { FileEntry } from '../contract.ts'
import { assert } from '../errors.ts'
import { linearWeight } from '../graph/linear.ts'
import { ropeTable } from '../graph/rope.ts'
import { DATA_FILE } from '../graph/weights.ts'
import type { Host, OutFolder } from '../host.ts'
import type { ExternalTensor } from '../onnx/model.ts'
import { type Delta, mergeDelta } from '../passes/merge-delta.ts'
import { decodeFloats } from '../safetensors/decode.ts'
import { type FloatTensorSource, readChunks, readFloats, readTransposed } from '../safetensors/stream.ts'
import { CLASSIFIER } from './names.ts'
import type { EncoderCheckpoint } from './open.ts'

/** A cache line, and the widest vector register. */
const ALIGNMENT = 64

import { writePlanned } from '../write-planned.ts'

export const GLOBAL_ROPE = 'rope.global.cos_sin'
export const LOCAL_ROPE = 'rope.local.cos_sin'

type From =
  | { readonly how: 'copy'; readonly tensor: string }
  | { readonly how: 'transpose'; readonly module: string }
  /** [in + 1, out]: the weight, transposed, and the bias below it. */
  | { readonly how: 'classifier' }
  | { readonly how: 'rope'; readonly theta: number }

export interface EncoderWeight extends ExternalTensor {
  readonly from: From
}

/** In file order. */
export function planEncoderWeights({ config, names }: Pick<EncoderCheckpoint, 'config' | 'names'>): EncoderWeight[] {
  const { architecture, details } = config
  const modules = new Map(names.linears.map(({ module }) => [`${module}.weight`, module]))
  const planned: EncoderWeight[] = []
  let end = 0
  const place = (name: string, dims: readonly number[], from: From) => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT
    const bytes = dims.reduce((product, size) => product * size, 4)
    end = offset + bytes
    planned.push({ name, dims, location: DATA_FILE, offset, bytes, from })
  }
  for (const [tensor, shape] of names.tensors) {
    const module = modules.get(tensor)
    if (tensor === `${CLASSIFIER}.weight`) {
      const [labels = 0, width = 0] = shape
      place(linearWeight(CLASSIFIER), [width + 1, labels], { how: 'classifier' })
    } else if (tensor === `${CLASSIFIER}.bias`) continue
    else if (module === undefined) place(tensor, shape, { how: 'copy', tensor })
    else place(linearWeight(module), [...shape].reverse(), { how: 'transpose', module })
  }
  if (details.family === 'modernbert') {
    const dims = [architecture.maxPositions, architecture.headDim]
    if (details.isGlobal.includes(true)) place(GLOBAL_ROPE, dims, { how: 'rope', theta: details.globalTheta })
    if (details.isGlobal.includes(false)) place(LOCAL_ROPE, dims, { how: 'rope', theta: details.localTheta })
  }
  return planned
}

/** `deltas`: per module; empty unless merged. Throws `InputError` where a merge overflows fp32. */
export function writeEncoderWeights(
  checkpoint: EncoderCheckpoint,
  plan: readonly EncoderWeight[],
  deltas: ReadonlyMap<string, readonly Delta[]>,
  out: OutFolder,
  host: Host,
  onBytes: (bytes: number) => void,
): Promise<FileEntry> {
  return writePlanned(plan, (weight) => readWeight(checkpoint, weight, deltas), out, host, onBytes)
}

async function* readWeight(
  checkpoint: EncoderCheckpoint,
  { from }: EncoderWeight,
  deltas: ReadonlyMap<string, readonly Delta[]>,
): AsyncGenerator<Float32Array<ArrayBuffer>> {
  if (from.how === 'rope') {
    const { maxPositions, headDim } = checkpoint.config.architecture
    yield ropeTable(maxPositions, headDim, from.theta)
  } else if (from.how === 'classifier') {
    const values = await readClassifier(checkpoint)
    const labels = checkpoint.config.labels?.length ?? 0
    mergeDelta(values, 0, labels, deltas.get(CLASSIFIER) ?? [], CLASSIFIER)
    yield values
  } else if (from.how === 'copy') {
    const tensor = tensorOf(checkpoint, from.tensor)
    for await (const chunk of readChunks(tensor)) yield decodeFloats(chunk, tensor.dtype)
  } else {
    const tensor = tensorOf(checkpoint, `${from.module}.weight`)
    const [outSize = 0] = tensor.shape
    for await (const { start, values } of readTransposed(tensor)) {
      mergeDelta(values, start, outSize, deltas.get(from.module) ?? [], from.module)
      yield values
    }
  }
}

/** [in + 1, labels] */
async function readClassifier(checkpoint: EncoderCheckpoint): Promise<Float32Array<ArrayBuffer>> {
  return stackClassifier(
    await readFloats(tensorOf(checkpoint, `${CLASSIFIER}.weight`)),
    await readFloats(tensorOf(checkpoint, `${CLASSIFIER}.bias`)),
  )
}

/** `weight` [out, in] and `bias` [out] as one [in + 1, out], for rows that end in a 1. */
export function stackClassifier(weight: Float32Array, bias: Float32Array): Float32Array<ArrayBuffer> {
  const out = bias.length
  const width = weight.length / out
  const stacked = new Float32Array((width + 1) * out)
  for (let o = 0; o < out; o += 1) {
    for (let i = 0; i < width; i += 1) stacked[i * out + o] = weight[o * width + i] as number
  }
  stacked.set(bias, width * out)
  return stacked
}

function tensorOf(checkpoint: EncoderCheckpoint, name: string): FloatTensorSource {
  const tensor = checkpoint.tensors.get(name)
  assert(tensor !== undefined, `the checkpoint was opened without ${name}`)
  return tensor
}
