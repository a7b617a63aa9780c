// The merged form of an artifact that keeps its base: the same graphs beside weights into which the deltas are written.
//
//   W'ᵀ[i, o] = round32( Wᵀ[i, o] + Σ scale·Σₖ A[i, k]·B[k, o] )     in double
//
// On purpose this shares no arithmetic with the `merged` target: each is a check of the other.
import { type AnyManifest, graphFiles } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import { linearNode } from '../graph/linear.ts'
import type { ByteSink, ByteSource, Folder, OutFolder } from '../host.ts'
import { readOnnx } from '../onnx/read.ts'
import type { OnnxGraph, OnnxTensor } from '../onnx/summary.ts'
import { withFile } from '../read-file.ts'
import { decodeFloats } from '../safetensors/decode.ts'
import { CHUNK_BYTES } from '../safetensors/stream.ts'

export interface Summand {
  readonly r: number
  readonly scale: number
  /** [in, r] and [r, out]. */
  readonly A: Float32Array
  readonly B: Float32Array
}

export type Deltas = ReadonlyMap<string, readonly Summand[]>

interface Patch {
  readonly place: NonNullable<OnnxTensor['external']>
  readonly out: number
  readonly summands: readonly Summand[]
}

/**
 * `deltas`: by module. Gives the largest ‖ΔW‖ / ‖W‖ of a module (Frobenius). Memory is bounded by a chunk. Throws
 * `InputError` where the graph has no such weight.
 */
export async function writeMergedForm(
  folder: Folder,
  { graphs }: Pick<AnyManifest, 'graphs'>,
  deltas: Deltas,
  out: OutFolder,
): Promise<number> {
  const model = await readAll(folder, graphs.model)
  const { graph } = readOnnx(model, `${folder.name}/${graphs.model}`)
  const patches = [...deltas].map(([module, summands]) => ({ ...weightOf(graph, module, folder), summands }))
  patches.sort((a, b) => a.place.offset - b.place.offset)
  for (const path of graphFiles({ graphs })) {
    await write(out, path, async (sink) => sink.write(await readAll(folder, path)))
  }
  let largest = 0
  for (const location of new Set(graph.initializers.flatMap(({ external }) => external?.location ?? []))) {
    const here = patches.filter(({ place }) => place.location === location)
    const change = await withFile(folder, location, (source) =>
      write(out, location, (sink) => copyPatched(source, here, sink)),
    )
    largest = Math.max(largest, change ?? 0)
  }
  return largest
}

/** Where the weight [in, out] of a linear lies, by the MatMul that reads it. */
function weightOf(graph: OnnxGraph, module: string, folder: Folder): Omit<Patch, 'summands'> {
  const node = graph.nodes.find(({ name }) => name === linearNode(module))
  const weight = graph.initializers.find(({ name }) => name === node?.inputs[1])
  const [, out] = weight?.dims ?? []
  if (weight?.external !== undefined && weight.type === 'float32' && weight.dims.length === 2 && out !== undefined) {
    return { place: weight.external, out }
  }
  throw inputError('artifact-invalid', `${folder.name}: the graph has no float32 weight for ${quote(module)}`)
}

async function copyPatched(source: ByteSource, patches: readonly Patch[], sink: ByteSink): Promise<number> {
  let at = 0
  let largest = 0
  const copyTo = async (end: number) => {
    for (; at < end; at += CHUNK_BYTES) await sink.write(await source.read(at, Math.min(CHUNK_BYTES, end - at)))
    at = end
  }
  for (const { place, out, summands } of patches) {
    if (place.offset < at || place.offset + place.length > source.size) {
      throw inputError('artifact-invalid', `${source.name}: a weight lies outside the file, or on top of another`)
    }
    await copyTo(place.offset)
    const rowBytes = out * Float32Array.BYTES_PER_ELEMENT
    const step = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes))
    const inSize = place.length / rowBytes
    const squares: Squares = { weight: 0, delta: 0 }
    for (let row = 0; row < inSize; row += step) {
      const count = Math.min(step, inSize - row)
      const values = decodeFloats(await source.read(place.offset + row * rowBytes, count * rowBytes), 'F32')
      addDeltas(values, row, out, summands, squares)
      await sink.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    }
    at = place.offset + place.length
    if (squares.delta > 0) largest = Math.max(largest, Math.sqrt(squares.delta / squares.weight))
  }
  await copyTo(source.size)
  return largest
}

/** Sums of squares. */
interface Squares {
  weight: number
  delta: number
}

/** `values`: rows `start` … of Wᵀ, in place. */
function addDeltas(
  values: Float32Array,
  start: number,
  out: number,
  summands: readonly Summand[],
  squares: Squares,
): void {
  const sum = new Float64Array(out)
  for (let at = 0; at < values.length; at += out) {
    const row = values.subarray(at, at + out)
    const i = start + at / out
    sum.set(row)
    for (const { r, scale, A, B } of summands) {
      for (let k = 0; k < r; k += 1) {
        const a = (A[i * r + k] as number) * scale
        for (let o = 0; o < out; o += 1) sum[o] = (sum[o] as number) + a * (B[k * out + o] as number)
      }
    }
    for (const [o, weight] of row.entries()) {
      squares.weight += weight * weight
      squares.delta += ((sum[o] as number) - weight) ** 2
    }
    row.set(sum)
  }
}

async function readAll(folder: Folder, path: string): Promise<Uint8Array> {
  const bytes = await withFile(folder, path, (file) => file.read(0, file.size))
  if (bytes === undefined) throw inputError('artifact-invalid', `${folder.name}: ${quote(path)} is missing`)
  return bytes
}

async function write<T>(out: OutFolder, path: string, use: (sink: ByteSink) => Promise<T>): Promise<T> {
  const sink = await out.create(path)
  try {
    return await use(sink)
  } finally {
    await sink.close()
  }
}
