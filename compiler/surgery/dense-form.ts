// The same model in another form, for comparison: beside each linear that an adapter changes, the whole of its delta.
//
//   y = x·W + x·ΔW,  ΔW[i, o] = round32( Σₐ wₐ·sₐ·Σₖ A[i, k]·B[k, o] ), summed in double
//
// It shares nothing with a path of slots or of stacked factors but the place in the graph: no rank, no bank, no slices of B;
// and nothing with a merge but ΔW. It runs beside any linear, quantised or not.
import type { ByteSink } from '../host.ts'
import type { Edits } from '../onnx/edit.ts'
import { concatBytes, field, rawFields, varintField } from '../onnx/splice.ts'
import type { Delta } from '../passes/merge-delta.ts'
import type { Site } from './linear.ts'

const FLOAT = 1
const CODES: Readonly<Record<string, number>> = { float32: FLOAT, float16: 10, bfloat16: 16 }
const ALIGNMENT = 64

/** Writes ΔW of each node to `data`, which is called `location`; gives the edits that name it. */
export async function denseForm(
  sites: readonly Site[],
  deltas: ReadonlyMap<string, readonly Delta[]>,
  data: ByteSink,
  location: string,
): Promise<Edits> {
  const nodes = new Map<number, Uint8Array[]>()
  const newTensors: Uint8Array[] = []
  let end = 0
  const changed = sites.filter(({ module }) => (deltas.get(module) ?? []).length > 0)
  for (const [index, group] of [...Map.groupBy(changed, ({ node }) => node).values()].entries()) {
    const site = group[0] as Site
    const name = `sidepath.dense.${index}`
    const bytes = new Uint8Array(denseDelta(site, group, deltas).buffer)
    const pad = (ALIGNMENT - (end % ALIGNMENT)) % ALIGNMENT
    await data.write(new Uint8Array(pad))
    await data.write(bytes)
    newTensors.push(externalTensor(name, [site.in, site.out], location, end + pad, bytes.length))
    end += pad + bytes.length
    nodes.set(site.node.at, besideNode(site, name))
  }
  return { nodes, tensors: new Map(), inputs: [], newTensors }
}

function denseDelta(site: Site, group: readonly Site[], deltas: ReadonlyMap<string, readonly Delta[]>): Float32Array {
  const { in: inSize, out } = site
  const dense = new Float32Array(inSize * out)
  const row = new Float64Array(out)
  for (let i = 0; i < inSize; i += 1) {
    row.fill(0)
    for (const { module, moduleOut, columns } of group) {
      for (const { r, scale, A, B } of deltas.get(module) ?? []) {
        for (let k = 0; k < r; k += 1) {
          const a = scale * (A[i * r + k] as number)
          const from = k * moduleOut + columns.moduleFrom
          for (let c = 0; c < columns.width; c += 1) {
            const at = columns.nodeFrom + c
            row[at] = (row[at] as number) + a * (B[from + c] as number)
          }
        }
      }
    }
    dense.set(row, i * out)
  }
  return dense
}

function besideNode({ node, type, file }: Site, dense: string): Uint8Array[] {
  const code = CODES[type] ?? FLOAT
  const own = rawFields(node.payload, file).map(({ number, raw }) => (number === 2 ? field(2, `${dense}.base`) : raw))
  const made: Uint8Array[] = []
  const add = (op: string, inputs: readonly string[], output: string, to?: number) => {
    const cast =
      to === undefined ? [] : [field(5, concatBytes([field(1, 'to'), varintField(3, to), varintField(20, 2)]))]
    const names = [
      ...inputs.map((input) => field(1, input)),
      field(2, output),
      field(3, `${output}.node`),
      field(4, op),
    ]
    made.push(concatBytes([...names, ...cast]))
    return output
  }
  const given = node.inputs[0] ?? ''
  const x = code === FLOAT ? given : add('Cast', [given], `${dense}.x`, FLOAT)
  const product = add('MatMul', [x, dense], `${dense}.product`)
  const delta = code === FLOAT ? product : add('Cast', [product], `${dense}.delta`, code)
  add('Add', [`${dense}.base`, delta], node.outputs[0] ?? '')
  return [concatBytes(own), ...made]
}

function externalTensor(name: string, dims: readonly number[], location: string, offset: number, length: number) {
  const entry = (key: string, value: string) => field(13, concatBytes([field(1, key), field(2, value)]))
  return concatBytes([
    ...dims.map((dim) => varintField(1, dim)),
    varintField(2, FLOAT),
    field(8, name),
    entry('location', location),
    entry('offset', String(offset)),
    entry('length', String(length)),
    varintField(14, 1),
  ])
}
