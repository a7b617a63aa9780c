// Deltas into the weights of an exported graph: W' = W + Σ w·s·B·A for float32 weights, in the file or beside it. A tensor
// that something else uses too is left as it is, and the linear gets its own.
import { inputError, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import type { Edits } from '../onnx/edit.ts'
import { allGraphs, findTensor, type SurgeryModel, type SurgeryTensor } from '../onnx/read-graph.ts'
import { concatBytes, field, rawFields, varintField } from '../onnx/splice.ts'
import { type Delta, mergeDelta } from '../passes/merge-delta.ts'
import { withFile } from '../read-file.ts'
import type { Site } from './linear.ts'

/** Bytes of a data file that change. */
export interface DataPatch {
  readonly location: string
  readonly offset: number
  readonly bytes: Uint8Array
  readonly module: string
}

export async function mergeWeights(
  model: SurgeryModel,
  sites: readonly Site[],
  deltas: ReadonlyMap<string, readonly Delta[]>,
  folder: Folder,
): Promise<{ edits: Edits; patches: DataPatch[] }> {
  const nodes = new Map<number, Uint8Array[]>()
  const tensors = new Map<number, Uint8Array>()
  const newTensors = new Map<string, Uint8Array>()
  const patches: DataPatch[] = []
  for (const site of sites) {
    refuse(site)
    const { weight, module } = site
    const own = `sidepath.${module}.weight`
    const isShared = usersOf(model, weight).some(
      (user) => !sites.some((s) => s.module === module && s.node.at === user),
    )
    if (tensors.has(weight.at) || newTensors.has(own) || patches.some((patch) => patch.module === module)) {
      if (isShared) nodes.set(site.node.at, [renameWeight(site, own)])
      continue
    }
    const merged = await mergedBytes(site, deltas.get(module) ?? [], folder)
    if (isShared) {
      if (model.names.has(own)) {
        throw inputError('onnx-unsupported', `${site.file}: the name ${quote(own)} is there already; a merge needs it`)
      }
      nodes.set(site.node.at, [renameWeight(site, own)])
      newTensors.set(own, inlineTensor({ ...weight, name: own }, merged))
    } else if (weight.external !== undefined) {
      patches.push({ location: weight.external.location, offset: weight.external.offset, bytes: merged, module })
    } else tensors.set(weight.at, replaceData(weight, merged, site.file))
  }
  return { edits: { nodes, tensors, inputs: [], newTensors: [...newTensors.values()] }, patches }
}

function refuse({ file, module, form, weight, node }: Site): void {
  const say = (what: string) =>
    inputError('onnx-unsupported', `${file}: ${module} ${what}; take compile, which leaves the weights as they are`)
  if (form === 'quantised') throw say(`is quantised (${node.op}), and a merge would round it again`)
  if (weight.type !== 'float32') throw say(`is stored as ${weight.type}, and only float32 is merged here`)
  const isScaled = (node.floats.get('alpha') ?? 1) !== 1 || node.ints.get('transA') === 1
  if (isScaled) throw say('has alpha or transA, which no merge is made for')
}

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
        ? [
            node.op === 'Transpose' || node.op === 'Identity'
              ? derivedUser(node.graph.nodes, node.outputs[0] ?? '', node.at)
              : node.at,
          ]
        : [],
    ),
  )
}

/** The one node behind a Transpose or an Identity of a weight; the Transpose itself where there is none, or two. */
function derivedUser(nodes: SurgeryModel['graph']['nodes'], output: string, fallback: number): number {
  const users = nodes.filter(({ inputs }) => inputs.includes(output))
  return users.length === 1 && users[0] !== undefined ? users[0].at : fallback
}

async function mergedBytes(site: Site, deltas: readonly Delta[], folder: Folder): Promise<Uint8Array> {
  const { in: inSize, out, module } = site
  const values = await readValues(site, folder)
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

async function readValues({ weight, file }: Site, folder: Folder): Promise<Float32Array<ArrayBuffer>> {
  const place = weight.external
  if (place === undefined) {
    // raw_data, or float_data, which lies in one packed field: the same bytes.
    const data = rawFields(weight.payload, file).filter(({ number }) => number === 9 || number === 4)
    const bytes = concatBytes(data.map(({ payload }) => payload))
    if (bytes.length === weight.bytes) return new Float32Array(bytes.buffer)
    throw inputError(
      'onnx-unsupported',
      `${file}: ${quote(weight.name)} has its numbers one by one; save the file again`,
    )
  }
  const bytes = await withFile(folder, place.location, (data) => data.read(place.offset, place.length))
  if (bytes === undefined) throw inputError('file-missing', `${folder.name}: there is no ${quote(place.location)}`)
  return new Float32Array(bytes.buffer)
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
