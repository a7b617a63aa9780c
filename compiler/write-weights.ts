// Streams model.onnx_data, tensor by tensor, merging deltas on the way: memory is bounded by the largest linear. Lanes, where
// there are any, do what is done to every weight.
import type { Checkpoint } from './checkpoint/read.ts'
import type { FileEntry, Linear } from './contract.ts'
import { assert } from './errors.ts'
import { isGgufWeights } from './gguf/weights-source.ts'
import { ropeTable } from './graph/rope.ts'
import type { PlannedWeight } from './graph/weights.ts'
import type { Host, OutFolder } from './host.ts'
import type { WeightLanes } from './lanes/weight-lanes.ts'
import { type Delta, mergeDelta, mergeRows } from './passes/merge-delta.ts'
import type { Calibration } from './quantise/calibrate.ts'
import { carryTensor } from './quantise/carry-stream.ts'
import type { Part } from './quantise/place.ts'
import type { QuantiseOptions } from './quantise/spec.ts'
import { type LayerError, quantiseTensor } from './quantise/stream.ts'
import { decodeFloats } from './safetensors/decode.ts'
import { type FloatTensorSource, readChunks, readRows, readTransposed } from './safetensors/stream.ts'
import { writePlanned } from './write-planned.ts'

/** `deltas`: per module; empty unless merged. Throws `InputError` where a merge overflows fp32. */
export function writeWeights(
  checkpoint: Checkpoint,
  plan: readonly PlannedWeight[],
  deltas: ReadonlyMap<Linear['module'], readonly Delta[]>,
  out: OutFolder,
  host: Host,
  onBytes: (bytes: number) => void,
  lanes: WeightLanes | undefined,
  quantise?: {
    readonly options: QuantiseOptions
    readonly onError: (error: LayerError) => void
    readonly calibration?: Calibration
  },
): Promise<FileEntry> {
  const quantising = { ...quantise, lanes, waiting: new Map<Part, Uint8Array>() }
  const stored = plan.filter(({ from }) => from.how !== 'alias')
  return writePlanned(stored, (weight) => readWeight(checkpoint, weight, deltas, quantising), out, host, onBytes)
}

interface Quantising {
  readonly options?: QuantiseOptions
  readonly onError?: (error: LayerError) => void
  readonly calibration?: Calibration
  readonly lanes: WeightLanes | undefined
  /** What came after the codes of the tensor that was quantised last. */
  readonly waiting: Map<Part, Uint8Array>
}

async function* readWeight(
  checkpoint: Checkpoint,
  { name, from, dims }: PlannedWeight,
  deltas: ReadonlyMap<string, readonly Delta[]>,
  quantising: Quantising,
): AsyncGenerator<Float32Array | Uint8Array> {
  assert(from.how !== 'alias', `${name} has no bytes of its own`)
  if (from.how === 'rope') {
    const [positions = 0, rotaryDim = 0] = dims
    yield ropeTable(positions, rotaryDim, from.theta, from.scaling)
    return
  }
  const tensor = tensorOf(checkpoint, from.tensor)
  if (from.how === 'quantise') {
    yield* quantisedPart(tensor, from, deltas.get(from.module) ?? [], quantising)
    return
  }
  if (from.how === 'carry') {
    const { module, carrier, part } = from
    const { source } = tensor
    const blocks = isGgufWeights(source) ? source.quantised(from.tensor) : undefined
    assert(blocks !== undefined && !deltas.has(module), `${module} has no blocks that could be carried over`)
    yield* onePart(part, quantising, (onError) => carryTensor(blocks, module, carrier, onError))
    return
  }
  if (from.how === 'copy') {
    for await (const { values } of asTheyLie(tensor, quantising.lanes)) yield values
    return
  }
  const changes = deltas.get(from.module) ?? []
  if (from.how === 'keep') {
    const [, out = 0] = tensor.shape
    // A delta is added to whole rows.
    const rows = changes.length > 0 ? readRows(tensor) : asTheyLie(tensor, quantising.lanes)
    for await (const { start, values } of rows) {
      mergeDelta(values, start, out, changes, from.module)
      yield values
    }
    return
  }
  const [outSize = 0] = tensor.shape
  const { lanes } = quantising
  for await (const { start, values } of lanes?.turns(tensor) ? lanes.transpose(tensor) : readTransposed(tensor)) {
    mergeDelta(values, start, outSize, changes, from.module)
    yield values
  }
}

async function* asTheyLie(
  tensor: FloatTensorSource,
  lanes: WeightLanes | undefined,
): AsyncGenerator<{ readonly start: number; readonly values: Float32Array }> {
  if (tensor.dtype !== 'F32' && lanes?.takes(tensor)) {
    yield* lanes.widen(tensor)
    return
  }
  for await (const chunk of readChunks(tensor)) yield { start: 0, values: decodeFloats(chunk, tensor.dtype) }
}

async function* quantisedPart(
  tensor: FloatTensorSource,
  { module, storage, part }: Extract<PlannedWeight['from'], { how: 'quantise' }>,
  deltas: readonly Delta[],
  quantising: Quantising,
): AsyncGenerator<Uint8Array> {
  const { options, lanes, calibration, waiting } = quantising
  assert(options !== undefined, `${module} is to be quantised, but nobody said how`)
  const [outSize = 0, inSize = 0] = tensor.shape
  const change = (values: Float32Array, first: number) => mergeRows(values, first, inSize, outSize, deltas, module)
  // Asked for when the weight is made, which is when its first part is.
  const integers = storage === 'int4' || storage === 'int8'
  const factor = integers && !waiting.has(part) ? await calibration?.factorOf(module) : undefined
  const means = { ...(lanes && { lanes }), ...(deltas.length > 0 && { change }), ...(factor && { factor }) }
  yield* onePart(part, quantising, (onError) => quantiseTensor(tensor, module, storage, options, means, onError))
}

/** The parts of a weight are made together, when the first of them is asked for. */
async function* onePart(
  part: Part,
  { onError, waiting }: Quantising,
  make: (onError: (error: LayerError) => void) => AsyncGenerator<{ part: Part; bytes: Uint8Array }>,
): AsyncGenerator<Uint8Array> {
  const ready = waiting.get(part)
  if (ready !== undefined) {
    waiting.delete(part)
    yield ready
    return
  }
  assert(onError !== undefined, 'a weight is to be quantised, but nobody hears of its error')
  assert(waiting.size === 0, `parts are left of the weight before`)
  for await (const made of make(onError)) {
    if (made.part === part) yield made.bytes
    else waiting.set(made.part, made.bytes)
  }
}

function tensorOf(checkpoint: Checkpoint, name: string): FloatTensorSource {
  const tensor = checkpoint.tensors.get(name)
  assert(tensor !== undefined, `the checkpoint was opened without ${name}`)
  return tensor
}
