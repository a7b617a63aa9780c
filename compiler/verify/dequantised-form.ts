// The form of a quantised artifact that has no quantised operator: each weight is worked out from its codes, the deltas
// are added, and a plain MatMul reads it.
//
//   W'ᵀ[i, o] = round32( value(codes, o, i) + Σ scale·Σₖ A[i, k]·B[k, o] )     in double
//
// What a code stands for is spelled out here once more, from the operators' specification: each is a check of the other.
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { layerLinears } from '../checkpoint/names.ts'
import type { Linear, Manifest } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import { joinedModule, linearNode, linearWeight } from '../graph/linear.ts'
import { type Site, sitesOf } from '../graph/sites.ts'
import type { ByteSink, Folder, OutFolder } from '../host.ts'
import { writeExternal, writeNode } from '../onnx/encode.ts'
import type { ExternalTensor, Node } from '../onnx/model.ts'
import { readOnnx } from '../onnx/read.ts'
import type { OnnxGraph, OnnxTensor } from '../onnx/summary.ts'
import { quantisedNames } from '../quantise/place.ts'
import { withFile } from '../read-file.ts'
import { decodeFloats } from '../safetensors/decode.ts'
import { CHUNK_BYTES } from '../safetensors/stream.ts'
import type { Deltas, Summand } from './merged-form.ts'

const DATA_FILE = 'dequantised.onnx_data'
/** Codes of GGUF formats with offsets begin at 0 in the file that they come from, and are stored from −z on. */
const CENTRES: Readonly<Record<string, number>> = { Q4_1: 8, Q4_K: 8, Q5_1: 16, Q5_K: 16 }
const GRAPH_FIELD = 7
const NODE_FIELD = 1
const INITIALIZER_FIELD = 5
/** Appendix E of QLoRA, arXiv:2305.14314. */
const NF4 = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]

/** Gives the largest ‖ΔW‖ / ‖W‖. Holds one weight as it is stored, and a chunk of it as float32. */
export async function writeDequantisedForm(
  folder: Folder,
  { graphs, base, quantisation }: Manifest,
  deltas: Deltas,
  out: OutFolder,
): Promise<number> {
  const block = quantisation?.block ?? 1
  const model = await readAll(folder, graphs.model)
  const { graph } = readOnnx(model, `${folder.name}/${graphs.model}`)
  const sink = await out.create(DATA_FILE)
  const weights = new Map<string, ExternalTensor>()
  let offset = 0
  let largest = 0
  try {
    for (const linear of layerLinears(base.architecture)) {
      const { module, in: inSize, out: outSize } = linear
      const centre = CENTRES[quantisation?.carried?.[module] ?? ''] ?? 0
      const value = await openWeight(folder, graph, linear, block, centre)
      const change = await writeWeight(value, linear, deltas.get(module) ?? [], sink)
      const bytes = 4 * inSize * outSize
      const name = `${linearNode(module)}.dequantised`
      weights.set(linearNode(module), { name, dims: [inSize, outSize], location: DATA_FILE, offset, bytes })
      offset += bytes
      largest = Math.max(largest, change)
    }
  } finally {
    await sink.close()
  }
  const sites = sitesOf(base.architecture)
  await write(out, graphs.model, replaceNodes(model, graph, weights, sites))
  const engine = await readAll(folder, graphs.engine)
  await write(out, graphs.engine, replaceNodes(engine, readOnnx(engine, graphs.engine).graph, weights, sites))
  for (const location of new Set(graph.initializers.flatMap(({ external }) => external?.location ?? []))) {
    await copy(folder, location, out)
  }
  return largest
}

/** W[o, i] */
type Value = (o: number, i: number) => number

async function openWeight(
  folder: Folder,
  graph: OnnxGraph,
  linear: Linear,
  block: number,
  centre: number,
): Promise<Value> {
  const { module, in: inSize, out: outSize } = linear
  const weight = linearWeight(module)
  const names = quantisedNames(weight)
  const initializers = new Map(graph.initializers.map((tensor) => [tensor.name, tensor]))
  const has = (name: string) => initializers.has(name)
  const load = (name: string) => readTensor(folder, initializers.get(name), name)
  const halves = async (name: string) => decodeFloats(await load(name), 'F16')
  const floats = async (name: string) => decodeFloats(await load(name), 'F32')
  if (has(weight)) {
    const values = await floats(weight)
    return (o, i) => values[i * outSize + o] as number
  }
  if (has(names.half)) {
    const values = await halves(names.half)
    return (o, i) => values[o * inSize + i] as number
  }
  const perRow = inSize / block
  if (has(names.nf4)) {
    const [codes, magnitudes, groups] = [
      await load(names.nf4),
      await load(names.magnitudes),
      await floats(names.magnitudeScales),
    ]
    return (o, i) => {
      const at = o * inSize + i
      const byte = codes[at >> 1] as number
      const b = Math.floor(at / block)
      const absmax = Math.fround((magnitudes[b] as number) * (groups[b >> 8] as number))
      return (NF4[i % 2 === 0 ? byte >> 4 : byte & 15] as number) * absmax
    }
  }
  const four = has(names.int4)
  // Blocks that were carried over need not be of one size, and some have scales in float32.
  const stored = initializers.get(four ? names.int4 : names.int8)
  const count = stored?.dims[1] ?? perRow
  const size = inSize / count
  const codes = await load(four ? names.int4 : names.int8)
  const either = (name: string) => (initializers.get(name)?.type === 'float16' ? halves(name) : floats(name))
  const scales = await either(names.scales)
  const zeroPoints = has(names.zeroPoints) ? await load(names.zeroPoints) : undefined
  const offsets = has(names.offsets) ? await either(names.offsets) : undefined
  const zeroBytes = Math.ceil((count * (four ? 4 : 8)) / 8)
  const nibble = (bytes: Uint8Array, start: number, k: number) =>
    four ? ((bytes[start + (k >> 1)] as number) >> (4 * (k % 2))) & 15 : (bytes[start + k] as number)
  return (o, i) => {
    const within = Math.floor(i / size)
    const b = o * count + within
    const q = nibble(codes, o * (four ? inSize / 2 : inSize), i)
    const zero = zeroPoints === undefined ? (four ? 8 : 128) : nibble(zeroPoints, o * zeroBytes, within)
    return (q - zero + centre) * (scales[b] as number) + (offsets?.[b] ?? 0)
  }
}

/** Wᵀ plus the deltas, rows of `in` after one another. */
async function writeWeight(
  value: Value,
  linear: Linear,
  summands: readonly Summand[],
  sink: ByteSink,
): Promise<number> {
  const { in: inSize, out } = linear
  const step = Math.max(1, Math.floor(CHUNK_BYTES / (4 * out)))
  let squares = 0
  let changes = 0
  for (let start = 0; start < inSize; start += step) {
    const count = Math.min(step, inSize - start)
    const rows = new Float32Array(count * out)
    for (let n = 0; n < count; n += 1) {
      const i = start + n
      const sum = new Float64Array(out)
      for (const { r, scale, A, B } of summands) {
        for (let k = 0; k < r; k += 1) {
          const a = (A[i * r + k] as number) * scale
          for (let o = 0; o < out; o += 1) sum[o] = (sum[o] as number) + a * (B[k * out + o] as number)
        }
      }
      for (let o = 0; o < out; o += 1) {
        const weight = value(o, i)
        const delta = sum[o] as number
        squares += weight * weight
        changes += delta * delta
        rows[n * out + o] = weight + delta
      }
    }
    await sink.write(new Uint8Array(rows.buffer))
  }
  return changes === 0 ? 0 : Math.sqrt(changes / squares)
}

/** The model with each linear's node a MatMul by the weight given; every other byte as it was. */
function replaceNodes(
  model: Uint8Array,
  graph: OnnxGraph,
  weights: ReadonlyMap<string, ExternalTensor>,
  sites: readonly Site[],
): Uint8Array<ArrayBuffer> {
  const byName = new Map(graph.nodes.map((node) => [node.name, node]))
  // Linears that the graph has as one, by the name that the one has.
  const joined = new Map(
    sites.map(({ linears }) => {
      const modules = linears.map(({ module }) => module)
      return [linearNode(joinedModule(modules)), modules]
    }),
  )
  const replacement = (name: string): Node[] | undefined => {
    const node = byName.get(name)
    const parts = weights.has(name) ? [name] : joined.get(name)?.map(linearNode)
    if (node === undefined || parts === undefined) return undefined
    const isSum = node.op === 'Add' || node.op === 'Gemm' || node.op === 'Sum'
    const [x = ''] = (isSum ? byName.get(`${name}.centred`) : node)?.inputs ?? []
    const plain = (op: string, at: string, inputs: readonly string[], attributes: Node['attributes'] = {}): Node => ({
      op,
      name: at,
      inputs,
      outputs: [at],
      attributes,
    })
    const products = parts.map((part) => plain('MatMul', `${part}.plain`, [x, weights.get(part)?.name ?? '']))
    const outputs = products.map((product) => product.name)
    const all = plain('Concat', `${name}.beside`, outputs, { axis: -1 })
    // What an affine weight's products were summed with, a low-rank path, is summed with the one that is here.
    const path = node.op === 'Sum' ? node.inputs.slice(2) : []
    return [...products, all, { ...plain('Sum', name, [all.name, ...path]), outputs: node.outputs }]
  }
  const writer = new BinaryWriter()
  rewrite(model, writer, GRAPH_FIELD, (bytes) =>
    message(writer, GRAPH_FIELD, (into) => {
      let at = 0
      rewrite(bytes, into, NODE_FIELD, (node) => {
        const replaced = replacement(graph.nodes[at]?.name ?? '')
        at += 1
        if (replaced === undefined) message(into, NODE_FIELD, (to) => to.raw(node))
        else for (const one of replaced) message(into, NODE_FIELD, (to) => writeNode(to, one))
      })
      for (const weight of weights.values()) message(into, INITIALIZER_FIELD, (to) => writeExternal(to, weight))
    }),
  )
  return writer.finish()
}

function message(writer: BinaryWriter, field: number, write: (writer: BinaryWriter) => void): void {
  writer.tag(field, WireType.LengthDelimited).fork()
  write(writer)
  writer.join()
}

/** Copies a message field by field; for those of number `field`, `change` writes what it likes. */
function rewrite(bytes: Uint8Array, writer: BinaryWriter, field: number, change: (bytes: Uint8Array) => void): void {
  const reader = new BinaryReader(bytes)
  while (reader.pos < reader.len) {
    const start = reader.pos
    const [number, type] = reader.tag()
    if (number === field && type === WireType.LengthDelimited) change(reader.bytes())
    else {
      reader.skip(type)
      writer.raw(bytes.subarray(start, reader.pos))
    }
  }
}

async function readTensor(
  folder: Folder,
  tensor: OnnxTensor | undefined,
  name: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const place = tensor?.external
  const bytes =
    place &&
    (await withFile(folder, place.location, async (file) =>
      place.offset + place.length > file.size ? undefined : file.read(place.offset, place.length),
    ))
  if (bytes === undefined) throw inputError('artifact-invalid', `${folder.name}: ${quote(name)} is not in the artifact`)
  return bytes
}

async function readAll(folder: Folder, path: string): Promise<Uint8Array> {
  const bytes = await withFile(folder, path, (file) => file.read(0, file.size))
  if (bytes === undefined) throw inputError('artifact-invalid', `${folder.name}: ${quote(path)} is missing`)
  return bytes
}

async function write(out: OutFolder, path: string, bytes: Uint8Array): Promise<void> {
  const sink = await out.create(path)
  await sink.write(bytes).finally(() => sink.close())
}

async function copy(folder: Folder, path: string, out: OutFolder): Promise<void> {
  const sink = await out.create(path)
  try {
    await withFile(folder, path, async (source) => {
      for (let at = 0; at < source.size; at += CHUNK_BYTES) {
        await sink.write(await source.read(at, Math.min(CHUNK_BYTES, source.size - at)))
      }
    })
  } finally {
    await sink.close()
  }
}
