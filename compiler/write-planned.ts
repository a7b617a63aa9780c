// Writes the data file of an artifact as it was planned: each weight at its offset, in pieces.
import type { FileEntry } from './contract.ts'
import { assert } from './errors.ts'
import { DATA_FILE } from './graph/weights.ts'
import { HashedFile } from './hashed-file.ts'
import type { Host, OutFolder } from './host.ts'
import type { ExternalTensor } from './onnx/model.ts'

/** `plan`: in file order; `read` gives a weight front to back. Throws what `read` throws. */
export async function writePlanned<W extends ExternalTensor>(
  plan: readonly W[],
  read: (weight: W) => AsyncIterable<Float32Array | Uint8Array>,
  out: OutFolder,
  host: Host,
  onBytes: (bytes: number) => void,
): Promise<FileEntry> {
  const file = await HashedFile.create(out, DATA_FILE, host)
  try {
    for (const weight of plan) {
      assert(file.bytes <= weight.offset, `${weight.name} begins before the weight ahead of it ends`)
      await file.write(new Uint8Array(weight.offset - file.bytes))
      for await (const piece of read(weight)) {
        await file.write(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength))
        onBytes(piece.byteLength)
      }
      assert(file.bytes === weight.offset + weight.bytes, `${weight.name} is not as long as planned`)
    }
  } catch (error) {
    await file.close()
    throw error
  }
  return file.close()
}
