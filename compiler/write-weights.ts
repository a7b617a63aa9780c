// Streams model.onnx_data, tensor by tensor, merging deltas on the way: memory is bounded by the largest linear.
import type { Checkpoint } from './checkpoint/read.ts'
import type { FileEntry, Linear } from './contract.ts'
import { assert } from './errors.ts'
import { ropeTable } from './graph/rope.ts'
import { DATA_FILE, type PlannedWeight } from './graph/weights.ts'
import { HashedFile } from './hashed-file.ts'
import type { Host, OutFolder } from './host.ts'
import { type Delta, mergeDelta } from './passes/merge-delta.ts'
import { decodeFloats } from './safetensors/decode.ts'
import { type FloatTensorSource, readChunks, readTransposed } from './safetensors/stream.ts'

/** `deltas`: per module; empty unless merged. Throws `InputError` where a merge overflows fp32. */
export async function writeWeights(
  checkpoint: Checkpoint,
  plan: readonly PlannedWeight[],
  deltas: ReadonlyMap<Linear['module'], readonly Delta[]>,
  out: OutFolder,
  host: Host,
  onBytes: (bytes: number) => void,
): Promise<FileEntry> {
  const file = await HashedFile.create(out, DATA_FILE, host)
  try {
    for (const weight of plan) {
      assert(file.bytes <= weight.offset, `${weight.name} begins before the weight ahead of it ends`)
      await file.write(new Uint8Array(weight.offset - file.bytes))
      for await (const values of readWeight(checkpoint, weight, deltas)) {
        await file.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
        onBytes(values.byteLength)
      }
      assert(file.bytes === weight.offset + weight.bytes, `${weight.name} is not as long as planned`)
    }
  } catch (error) {
    await file.close()
    throw error
  }
  return file.close()
}

async function* readWeight(
  checkpoint: Checkpoint,
  { from }: PlannedWeight,
  deltas: ReadonlyMap<string, readonly Delta[]>,
): AsyncGenerator<Float32Array<ArrayBuffer>> {
  const { architecture, ropeTheta } = checkpoint.config
  if (from.how === 'rope') {
    yield ropeTable(architecture.maxPositions, architecture.headDim, ropeTheta)
    return
  }
  const tensor = tensorOf(checkpoint, from.tensor)
  if (from.how === 'copy') {
    for await (const chunk of readChunks(tensor)) yield decodeFloats(chunk, tensor.dtype)
    return
  }
  const [outSize = 0] = tensor.shape
  for await (const { start, values } of readTransposed(tensor)) {
    mergeDelta(values, start, outSize, deltas.get(from.module) ?? [], from.module)
    yield values
  }
}

function tensorOf(checkpoint: Checkpoint, name: string): FloatTensorSource {
  const tensor = checkpoint.tensors.get(name)
  assert(tensor !== undefined, `the checkpoint was opened without ${name}`)
  return tensor
}
