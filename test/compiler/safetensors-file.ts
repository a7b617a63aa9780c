// Makes and edits safetensors files for tests, by the format's own words and not by our reader or writer.

export interface RawTensor {
  dtype: string
  shape: number[]
  data: Uint8Array
}

/** The file with this header text, whatever it says, and these bytes of data. */
export function rawFile(header: string | Uint8Array, data: Uint8Array | number = 0): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const body = typeof data === 'number' ? new Uint8Array(data) : data
  const prefix = new Uint8Array(8)
  new DataView(prefix.buffer).setBigUint64(0, BigInt(text.length), true)
  return new Uint8Array(Buffer.concat([prefix, text, body]))
}

export function writeRaw(tensors: ReadonlyMap<string, RawTensor>, metadata?: Record<string, string>): Uint8Array {
  // No prototype, so that a tensor may be called __proto__.
  const header: Record<string, unknown> = Object.create(null)
  if (metadata !== undefined) header.__metadata__ = metadata
  let end = 0
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.length] }
    end += data.length
  }
  return rawFile(JSON.stringify(header), Buffer.concat([...tensors.values()].map(({ data }) => data)))
}

export function parseRaw(file: Uint8Array): Map<string, RawTensor> {
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset, 8).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes)))
  delete header.__metadata__
  return new Map(
    Object.entries(header as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => [name, { dtype, shape, data: file.slice(8 + headerBytes + begin, 8 + headerBytes + end) }],
    ),
  )
}

/** A copy of the file after `change` has had its way with the tensors. */
export function editRaw(file: Uint8Array, change: (tensors: Map<string, RawTensor>) => void): Uint8Array {
  const tensors = parseRaw(file)
  change(tensors)
  return writeRaw(tensors)
}

export function float32(values: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer)
}
