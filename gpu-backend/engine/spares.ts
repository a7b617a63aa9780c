// Memory for the adapters that come next. The system hands out fresh memory page by page, which takes longer than to fill
// it, so that of adapters that have gone is used again, and where there is none a piece is made ready beforehand.

/** Of all that lies ready. */
const MAX_BYTES = 64 * 1024 * 1024
const PAGE_FLOATS = 1024

export class Spares {
  readonly #maxBytes: number
  #buffers: ArrayBuffer[] = []
  #lastFloats = 0

  constructor(maxBytes = MAX_BYTES) {
    this.#maxBytes = maxBytes
  }

  get bytes(): number {
    return this.#buffers.reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  /** What lies in it is anything. */
  take(floats: number): Float32Array<ArrayBuffer> {
    this.#lastFloats = floats
    const at = this.#find(floats)
    if (at < 0) return new Float32Array(floats)
    return new Float32Array(this.#buffers.splice(at, 1)[0]!)
  }

  /** The oldest go where it would be too much. */
  give(buffer: ArrayBuffer): void {
    this.#buffers.push(buffer)
    while (this.bytes > this.#maxBytes) this.#buffers.shift()
  }

  /** Makes sure that one more of the size that was taken last lies ready. */
  refill(): void {
    const wanted = this.#lastFloats * Float32Array.BYTES_PER_ELEMENT
    if (wanted === 0 || wanted > this.#maxBytes || this.#find(this.#lastFloats) >= 0) return
    const fresh = new Float32Array(this.#lastFloats)
    for (let at = 0; at < fresh.length; at += PAGE_FLOATS) fresh[at] = 0
    this.give(fresh.buffer)
  }

  /** Of exactly that size: most adapters of a base have the same, and of others nothing would be gained. */
  #find(floats: number): number {
    return this.#buffers.findIndex(({ byteLength }) => byteLength === floats * Float32Array.BYTES_PER_ELEMENT)
  }
}
