// The folder that graphs and weights are written into, in memory: the runtime takes both as bytes.
import { assert } from '../../compiler/errors.ts'
import { DATA_FILE } from '../../compiler/graph/weights.ts'
import type { OutFolder } from '../../compiler/host.ts'
import { type GraphBytes, MAX_WEB_WEIGHT_BYTES } from '../../runtime/web.ts'

/** Above the weights: a graph of a base with hundreds of layers. */
const MAX_FILE_BYTES = MAX_WEB_WEIGHT_BYTES + 64 * 2 ** 20

export interface MemoryFolder extends OutFolder {
  /** A graph with its weights, as they lie. */
  graph(path: string): GraphBytes
}

export function memoryFolder(): MemoryFolder {
  const files = new Map<string, Uint8Array<ArrayBuffer>>()
  const read = (path: string) => {
    const bytes = files.get(path)
    assert(bytes !== undefined, `${path} was not written`)
    return bytes
  }
  return {
    async create(path) {
      // Grows in place: the room is reserved, and taken page by page.
      const buffer = new ArrayBuffer(0, { maxByteLength: MAX_FILE_BYTES })
      return {
        async write(bytes) {
          const at = buffer.byteLength
          buffer.resize(at + bytes.length)
          new Uint8Array(buffer).set(bytes, at)
        },
        async close() {
          files.set(path, new Uint8Array(buffer))
        },
      }
    },
    graph: (path) => ({ graph: read(path), weights: [{ path: DATA_FILE, data: read(DATA_FILE) }] }),
  }
}
