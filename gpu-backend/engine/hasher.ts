// SHA-256 of a file while it is being read, in a thread of its own: to hash takes longer than all the rest of a load.
import { readSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import type { StoreFile, Whole } from './store.ts'

export interface HashCall {
  readonly memory: SharedArrayBuffer
  readonly size: number
}

export interface HasherData {
  /** How many bytes of the file are in memory, as the one element; see `GIVEN_UP`. */
  readonly filled: Int32Array<SharedArrayBuffer>
}

/** Instead of a number of bytes: no more will come. */
export const GIVEN_UP = -1
/** Of a read: what is hashed last, when all has been read, is hardly more than one of them. */
const PIECE_BYTES = 512 * 1024
/** Memory is kept for the next file, because the system takes longer to hand out fresh memory than to read a file into it. */
const MAX_KEPT_BYTES = 64 * 1024 * 1024

export class Hasher {
  readonly #worker: Worker
  readonly #filled = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  #memory = new SharedArrayBuffer(0)
  #settle: (sha256: string) => void = () => {}
  #closed = false

  constructor() {
    const workerData: HasherData = { filled: this.#filled }
    this.#worker = new Worker(new URL('./hasher-worker.ts', import.meta.url), { workerData, name: 'sidepath-hasher' })
    this.#worker.unref()
    this.#worker.on('message', (sha256: string) => this.#settle(sha256))
    // Nobody handles this, nor an error of its own, so this thread ends too. Who started this one starts both anew.
    this.#worker.on('exit', () => {
      if (!this.#closed) throw new Error('the thread that hashes adapters has ended')
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#worker.terminate()
  }

  /** One file at a time: the bytes are good until the next call. They are in shared memory, and nobody writes to them. */
  async read(file: StoreFile): Promise<Whole> {
    if (file.size > this.#memory.byteLength) this.#memory = new SharedArrayBuffer(file.size)
    const memory = this.#memory
    if (memory.byteLength > MAX_KEPT_BYTES) this.#memory = new SharedArrayBuffer(0)
    const bytes = new Uint8Array(memory, 0, file.size)
    const sha256 = new Promise<string>((resolve) => {
      this.#settle = resolve
    })
    this.#say(0)
    this.#worker.postMessage({ memory, size: file.size } satisfies HashCall)
    try {
      for (let at = 0; at < file.size; ) {
        const count = readSync(file.laneFile, bytes, at, Math.min(PIECE_BYTES, file.size - at), at)
        if (count === 0) throw new RangeError(`${file.name}: the file shrank while it was read`)
        at += count
        this.#say(at)
      }
    } catch (error) {
      this.#say(GIVEN_UP)
      // Before that it would not see that another file has begun.
      await sha256
      throw error
    }
    // The types do not know that all that is read here may lie in shared memory.
    return { bytes: bytes as Uint8Array<ArrayBufferLike> as Uint8Array<ArrayBuffer>, sha256 }
  }

  #say(filled: number): void {
    Atomics.store(this.#filled, 0, filled)
    Atomics.notify(this.#filled, 0)
  }
}
