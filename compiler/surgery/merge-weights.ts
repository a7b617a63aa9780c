// Deltas into the weights of an exported graph: W' = W + Σ w·s·B·A for float32 weights, in the file or beside it. A tensor
// that something else uses too is left as it is, and the linear gets its own.
import { inputError, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import type { Edits } from '../onnx/edit.ts'
import { allGraphs, findTensor, type SurgeryModel, type SurgeryTensor } from '../onnx/read-graph.ts'
import { concatBytes, field, rawFields, varintField } from '../onnx/splice.ts'
import { type Delta, mergeDelta } from '../passes/merge-delta.ts'
import { withFile } from '../read-file.ts'
import { MAX_CHAIN } from './find-linears.ts'
import type { Site } from './linear.ts'
import { requantise } from './requantise.ts'

/** Bytes of a data file that change. */
export interface DataPatch {
  readonly location: string
  readonly offset: number
  readonly bytes: Uint8Array
  readonly module: string
}

/** What a merge into a quantised linear cost: the codes hold less than what was to be written. */
export type Rounding = {
  readonly file: string
  readonly module: string
  readonly node: string
  /** ‖Ŵ − W′‖ over ‖W′‖, W′ the exact sum and Ŵ what the new codes say, over the rows that changed. */
  readonly relativeError: number
  /** ‖Ŵ − W′‖ over ‖W′ − W‖: 1 is as much rounding as there was to merge. */
  readonly lossOfDelta: number
}

export interface Merged {
  readonly edits: Edits
  readonly patches: readonly DataPatch[]
  readonly roundings: readonly Rounding[]
}

export async function mergeWeights(
  model: SurgeryModel,
  sites: readonly Site[],
  deltas: ReadonlyMap<string, readonly Delta[]>,
  folder: Folder,
): Promise<Merged> {
  const nodes = new Map<number, Uint8Array[]>()
  const tensors = new Map<number, Uint8Array>()
  const newTensors = new Map<string, Uint8Array>()
  const patches: DataPatch[] = []
  const roundings: Rounding[] = []
  const groups = [...Map.groupBy(sites, ({ node }) => node).values()].map((group) => ({
    group,
    site: group[0] as Site,
    module: group.map((site) => site.module).join(' + '),
  }))
  for (const { group, site, module } of groups) {
    refuse(site)
    const { weight } = site
    const own = `sidepath.${module.replaceAll(' ', '')}.weight`
    const isShared = usersOf(model, weight).some(
      (user) => !groups.some((other) => other.module === module && other.site.node.at === user),
    )
    const isDone = tensors.has(weight.at) || newTensors.has(own) || patches.some((patch) => patch.module === module)
    if (isDone) {
      if (isShared) nodes.set(site.node.at, [renameWeight(site, own)])
      continue
    }
    const ofNode = group.flatMap((one) => (deltas.get(one.module) ?? []).map((delta) => widen(delta, one)))
    const put = (tensor: SurgeryTensor, data: Uint8Array) => {
      const { external } = tensor
      if (external === undefined) tensors.set(tensor.at, replaceData(tensor, data, site.file))
      else patches.push({ location: external.location, offset: external.offset, bytes: data, module })
    }
    if (site.form === 'quantised') {
      if (isShared) {
        throw inputError(
          'onnx-unsupported',
          `${site.file}: ${module} is quantised and something else uses its codes; take compile, which leaves them as they are`,
        )
      }
      const { changed, ...cost } = await requantise(site, ofNode, module, (tensor) => dataOf(tensor, site.file, folder))
      for (const [tensor, data] of changed) {
        refuseOtherUsers(model, site, tensor)
        put(tensor, data)
      }
      roundings.push({ file: site.file, module, node: site.node.name, ...cost })
      continue
    }
    const merged = await mergedBytes(site, ofNode, module, folder)
    if (isShared) {
      if (model.names.has(own)) {
        throw inputError('onnx-unsupported', `${site.file}: the name ${quote(own)} is there already; a merge needs it`)
      }
      nodes.set(site.node.at, [renameWeight(site, own)])
      newTensors.set(own, inlineTensor({ ...weight, name: own }, merged))
    } else put(weight, merged)
  }
  return { edits: { nodes, tensors, inputs: [], newTensors: [...newTensors.values()] }, patches, roundings }
}

/** B in the columns of the node: zeros where other modules are, cut where other nodes are. */
function widen(delta: Delta, { columns, out, moduleOut }: Site): Delta {
  const { nodeFrom, moduleFrom, width } = columns
  if (width === out && out === moduleOut) return delta
  const B = new Float32Array(delta.r * out)
  for (let k = 0; k < delta.r; k += 1) {
    const from = k * moduleOut + moduleFrom
    B.set(delta.B.subarray(from, from + width), k * out + nodeFrom)
  }
  return { ...delta, B }
}

/** Scales that two weights share would change the other one. */
function refuseOtherUsers(model: SurgeryModel, { file, module, node }: Site, tensor: SurgeryTensor): void {
  if (usersOf(model, tensor).every((user) => user === node.at)) return
  throw inputError(
    'onnx-unsupported',
    `${file}: ${quote(tensor.name)}, of ${module}, is used elsewhere too; take compile, which leaves it as it is`,
  )
}

function refuse({ file, module, form, weight, node }: Site): void {
  const say = (what: string) =>
    inputError('onnx-unsupported', `${file}: ${module} ${what}; take compile, which leaves the weights as they are`)
  if (form !== 'quantised' && weight.type !== 'float32')
    throw say(`is stored as ${weight.type}, and only float32 is merged here`)
  const isScaled = (node.floats.get('alpha') ?? 1) !== 1 || node.ints.get('transA') === 1
  if (isScaled) throw say('has alpha or transA, which no merge is made for')
}

const CHAIN: ReadonlySet<string> = new Set(['Transpose', 'Identity', 'DequantizeLinear'])

/** The nodes that name this very tensor, or another tensor with the same bytes of a data file. */
function usersOf(model: SurgeryModel, weight: SurgeryTensor): number[] {
  const graphs = allGraphs(model.graph)
  const isAlias = (other: SurgeryTensor) => {
    const [a, b] = [weight.external, other.external]
    if (other.at === weight.at) return true
    if (a === undefined || b === undefined || a.location !== b.location) return false
    return a.offset < b.offset + b.length && b.offset < a.offset + a.length
  }
  const names = new Set(
    graphs.flatMap(({ initializers }) => [...initializers.values()].filter(isAlias).map((t) => t.name)),
  )
  return graphs.flatMap(({ nodes, ...graph }) =>
    nodes.flatMap((node) =>
      node.inputs.some((name) => {
        if (!names.has(name)) return false
        const tensor = findTensor({ nodes, ...graph }, name)
        return tensor !== undefined && isAlias(tensor)
      })
        ? [CHAIN.has(node.op) ? derivedUser(node.graph.nodes, node.outputs[0] ?? '', node.at) : node.at]
        : [],
    ),
  )
}

/** The one node behind what a weight goes through; the first of those itself where there is none, or two. */
function derivedUser(nodes: SurgeryModel['graph']['nodes'], output: string, fallback: number): number {
  let value = output
  // As long as the chains that are followed to a weight.
  for (let step = 0; step <= MAX_CHAIN; step += 1) {
    const users = nodes.filter(({ inputs }) => inputs.includes(value))
    const [only] = users
    if (users.length !== 1 || only === undefined) return fallback
    if (!CHAIN.has(only.op)) return only.at
    value = only.outputs[0] ?? ''
  }
  return fallback
}

async function mergedBytes(site: Site, deltas: readonly Delta[], module: string, folder: Folder): Promise<Uint8Array> {
  const { in: inSize, out } = site
  const values = new Float32Array((await dataOf(site.weight, site.file, folder)).buffer)
  const rows = site.transposed ? swap(values, out, inSize) : values
  mergeDelta(rows, 0, out, deltas, module)
  const merged = site.transposed ? swap(rows, inSize, out) : rows
  return new Uint8Array(merged.buffer)
}

/** [rows, columns] → [columns, rows] */
function swap(values: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const swapped = new Float32Array(values.length)
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      swapped[column * rows + row] = values[row * columns + column] as number
    }
  }
  return swapped
}

/** The bytes of a tensor, in the file or beside it. */
async function dataOf(tensor: SurgeryTensor, file: string, folder: Folder): Promise<Uint8Array<ArrayBuffer>> {
  const place = tensor.external
  if (place === undefined) {
    // raw_data, or float_data, which lies in one packed field: the same bytes.
    const data = rawFields(tensor.payload, file).filter(({ number }) => number === 9 || number === 4)
    const bytes = concatBytes(data.map(({ payload }) => payload))
    if (bytes.length === tensor.bytes) return bytes
    throw inputError(
      'onnx-unsupported',
      `${file}: ${quote(tensor.name)} has its numbers one by one; save the file again`,
    )
  }
  const bytes = await withFile(folder, place.location, (data) => data.read(place.offset, place.length))
  if (bytes === undefined) throw inputError('file-missing', `${folder.name}: there is no ${quote(place.location)}`)
  return bytes
}

function replaceData(weight: SurgeryTensor, data: Uint8Array, file: string): Uint8Array {
  const kept = rawFields(weight.payload, file).filter(({ number }) => number !== 9 && number !== 4)
  return concatBytes([...kept.map(({ raw }) => raw), field(9, data)])
}

function inlineTensor({ name, dims }: Pick<SurgeryTensor, 'name' | 'dims'>, data: Uint8Array): Uint8Array {
  return concatBytes([...dims.map((dim) => varintField(1, dim)), varintField(2, 1), field(8, name), field(9, data)])
}

function renameWeight({ node, file, form, module }: Site, name: string): Uint8Array {
  if (form !== 'stored') {
    throw inputError(
      'onnx-unsupported',
      `${file}: ${module} shares its weight through other nodes, which no merge is made for; take compile`,
    )
  }
  let index = 0
  return concatBytes(
    rawFields(node.payload, file).map(({ number, raw }) => {
      if (number !== 1) return raw
      index += 1
      return index === 2 ? field(1, name) : raw
    }),
  )
}
