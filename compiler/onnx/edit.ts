// Writes a file anew with some nodes and tensors replaced, and inputs and tensors added to the outer graph. All other
// bytes are copied as they were.
import { concatBytes, field, rawFields } from './splice.ts'

export interface Edits {
  /** By where a node's message begins: the node messages to write in its place. */
  readonly nodes: ReadonlyMap<number, readonly Uint8Array[]>
  /** By where a tensor's message begins: the tensor message to write in its place. */
  readonly tensors: ReadonlyMap<number, Uint8Array>
  /** ValueInfoProto and TensorProto messages. */
  readonly inputs: readonly Uint8Array[]
  readonly newTensors: readonly Uint8Array[]
}

export function applyEdits(bytes: Uint8Array, file: string, edits: Edits): Uint8Array<ArrayBuffer> {
  const writer = new Writer(bytes, file, edits)
  return concatBytes(
    rawFields(bytes, file).map(({ number, raw, payload }) =>
      number === 7 ? field(7, writer.graph(payload, true)) : raw,
    ),
  )
}

class Writer {
  readonly #start: number
  readonly #file: string
  readonly #edits: Edits
  readonly #places: readonly number[]

  constructor(bytes: Uint8Array, file: string, edits: Edits) {
    this.#places = [...edits.nodes.keys(), ...edits.tensors.keys()]
    this.#start = bytes.byteOffset
    this.#file = file
    this.#edits = edits
  }

  graph(payload: Uint8Array, isOuter = false): Uint8Array {
    const parts: Uint8Array[] = []
    for (const { number, raw, payload: inner } of rawFields(payload, this.#file)) {
      const at = inner.byteOffset - this.#start
      if (number === 1)
        parts.push(...(this.#edits.nodes.get(at)?.map((node) => field(1, node)) ?? [this.#node(raw, inner)]))
      else if (number === 5) {
        const tensor = this.#edits.tensors.get(at)
        parts.push(tensor === undefined ? raw : field(5, tensor))
      } else parts.push(raw)
    }
    if (isOuter) {
      parts.push(...this.#edits.newTensors.map((tensor) => field(5, tensor)))
      parts.push(...this.#edits.inputs.map((input) => field(11, input)))
    }
    return concatBytes(parts)
  }

  /** A node stays as it is unless something inside one of its graphs changes. */
  #node(raw: Uint8Array, payload: Uint8Array): Uint8Array {
    const from = payload.byteOffset - this.#start
    const within = (at: number) => at >= from && at < from + payload.length
    if (!this.#places.some(within)) return raw
    const attribute = (bytes: Uint8Array) =>
      concatBytes(
        rawFields(bytes, this.#file).map((part) =>
          part.number === 6 || part.number === 11 ? field(part.number, this.graph(part.payload)) : part.raw,
        ),
      )
    const parts = rawFields(payload, this.#file)
    return field(
      1,
      concatBytes(parts.map((part) => (part.number === 5 ? field(5, attribute(part.payload)) : part.raw))),
    )
  }
}
