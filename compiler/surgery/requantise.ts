// A delta into quantised weights: codes → W, W′ = W + Σ w·s·B·A, W′ → codes of the same form, with new scales. Only the
// rows of outputs that some delta reaches are written anew; in all others every byte stays.
//
//   symmetric (no zero points)   s = max|w| / 2^(b−1), rounded to the type of the scales first
//   with zero points             s = (hi − lo) / (2^b − 1), z = round(−lo / s), with 0 between lo and hi
//
// Rounding loses part of what was merged; how much is part of the report.
import { inputError } from '../errors.ts'
import { findTensor, type SurgeryNode, type SurgeryTensor } from '../onnx/read-graph.ts'
import type { Delta } from '../passes/merge-delta.ts'
import { fromHalf, toHalf } from '../quantise/half.ts'
import { decodeFloats } from '../safetensors/decode.ts'
import type { Site } from './linear.ts'

export interface Requantised {
  readonly changed: ReadonlyMap<SurgeryTensor, Uint8Array>
  readonly relativeError: number
  readonly lossOfDelta: number
}

type Read = (tensor: SurgeryTensor) => Promise<Uint8Array<ArrayBuffer>>

/** Throws `InputError` where the form is not one whose codes can be written. */
export async function requantise(
  site: Site,
  deltas: readonly Delta[],
  module: string,
  read: Read,
): Promise<Requantised> {
  const form = formOf(site, module)
  const [codeBytes, scaleBytes, zeroBytes] = await Promise.all([
    read(form.codes),
    read(form.scales),
    form.zeros && read(form.zeros),
  ])
  const { in: inSize, out } = site
  const scales = floats(scaleBytes, form.scales.type)
  const codes = new Uint8Array(codeBytes)
  const zeros = zeroBytes === undefined ? undefined : new Uint8Array(zeroBytes)
  const column = new Float64Array(inSize)
  const before = new Float64Array(inSize)
  const totals = { error: 0, norm: 0, delta: 0 }
  for (const o of changedColumns(deltas, out)) {
    for (let i = 0; i < inSize; i += 1) {
      const group = form.group(i, o)
      const zero = zeros === undefined ? form.middle : form.zero.get(zeros, group)
      before[i] = (form.code.get(codes, form.place(i, o)) - zero) * (scales[group] as number)
    }
    column.set(before)
    for (const { r, scale, A, B } of deltas) {
      for (let k = 0; k < r; k += 1) {
        const b = scale * (B[k * out + o] as number)
        if (b === 0) continue
        for (let i = 0; i < inSize; i += 1) column[i] = (column[i] as number) + b * (A[i * r + k] as number)
      }
    }
    for (let from = 0; from < inSize; from += form.block) {
      const to = Math.min(inSize, from + form.block)
      const group = form.group(from, o)
      const fit = fitBlock(column.subarray(from, to), form, zeros !== undefined, `${site.file}: ${module}`)
      scales[group] = fit.scale
      if (zeros !== undefined) form.zero.set(zeros, group, fit.zero)
      for (let i = from; i < to; i += 1) {
        const value = column[i] as number
        const wanted = fit.scale === 0 ? fit.zero : Math.round(value / fit.scale) + fit.zero
        const code = Math.min(form.highest, Math.max(form.lowest, wanted))
        form.code.set(codes, form.place(i, o), code)
        totals.error += ((code - fit.zero) * fit.scale - value) ** 2
        totals.norm += value ** 2
        totals.delta += (value - (before[i] as number)) ** 2
      }
    }
  }
  const changed = new Map<SurgeryTensor, Uint8Array>([
    [form.codes, codes],
    [form.scales, bytesOf(scales, form.scales.type)],
  ])
  if (form.zeros !== undefined && zeros !== undefined) changed.set(form.zeros, zeros)
  const share = (of: number) => (of === 0 ? 0 : Math.sqrt(totals.error / of))
  return { changed, relativeError: share(totals.norm), lossOfDelta: share(totals.delta) }
}

function changedColumns(deltas: readonly Delta[], out: number): number[] {
  return Array.from({ length: out }, (_, o) => o).filter((o) =>
    deltas.some(({ r, B }) => Array.from({ length: r }, (_, k) => B[k * out + o]).some((value) => value !== 0)),
  )
}

/** Reads and writes the code at a place. */
interface Codes {
  get(bytes: Uint8Array, at: number): number
  set(bytes: Uint8Array, at: number, code: number): void
}

interface Form {
  readonly codes: SurgeryTensor
  readonly scales: SurgeryTensor
  readonly zeros?: SurgeryTensor
  /** Inputs that share a scale. */
  readonly block: number
  /** What stands for 0 where there are no zero points. */
  readonly middle: number
  readonly lowest: number
  readonly highest: number
  readonly code: Codes
  readonly zero: Codes
  /** Of W[input, output]: its place among the codes, and that of its scale. */
  place(i: number, o: number): number
  group(i: number, o: number): number
}

const nibbles = (perRow?: number, bytesPerRow = 0): Codes => {
  // MatMulNBits starts every row of zero points at a byte.
  const place = (at: number) => (perRow === undefined ? at : Math.floor(at / perRow) * bytesPerRow * 2 + (at % perRow))
  return {
    get: (bytes, at) => ((bytes[place(at) >> 1] as number) >> (4 * (place(at) & 1))) & 15,
    set(bytes, at, code) {
      const [byte, shift] = [place(at) >> 1, 4 * (place(at) & 1)]
      bytes[byte] = ((bytes[byte] as number) & ~(15 << shift)) | ((code & 15) << shift)
    },
  }
}

const whole: Codes = {
  get: (bytes, at) => bytes[at] as number,
  set(bytes, at, code) {
    bytes[at] = code
  },
}

const signed = (codes: Codes, bits: number): Codes => ({
  get: (bytes, at) => (codes.get(bytes, at) << (32 - bits)) >> (32 - bits),
  set: codes.set,
})

function formOf(site: Site, module: string): Form {
  const { codec, file } = site
  const say = (what: string) =>
    inputError(
      'onnx-unsupported',
      `${file}: ${module} ${what}, which no merge is made for; take compile, which leaves the codes as they are`,
    )
  if (codec === undefined) throw say('has codes of no known form')
  if (codec.op === 'MatMulNBits') return nbitsForm(site, codec, say)
  if (codec.op === 'DequantizeLinear') return linearForm(site, codec, say)
  throw say(`is ${codec.op}`)
}

type Say = (what: string) => Error

function nbitsForm({ in: inSize, out, weight }: Site, node: SurgeryNode, say: Say): Form {
  const [bits, block] = [node.ints.get('bits') ?? 4, node.ints.get('block_size') ?? 0]
  const scales = findTensor(node.graph, node.inputs[2] ?? '')
  const zeros = node.inputs[3] ? findTensor(node.graph, node.inputs[3]) : undefined
  if (node.inputs[4]) throw say('has reordered inputs (g_idx)')
  if (node.ints.get('weight_prepacked')) throw say('has codes in the order of one device (weight_prepacked)')
  if (bits !== 4 && bits !== 8) throw say(`has codes of ${bits} bits`)
  const blocks = Math.ceil(inSize / block)
  const zeroRow = Math.ceil((blocks * bits) / 8)
  const isWell =
    block > 0 &&
    scales !== undefined &&
    weight.type === 'uint8' &&
    weight.bytes === (out * blocks * block * bits) / 8 &&
    scales.dims.reduce((total, dim) => total * dim, 1) === out * blocks
  if (!isWell || scales === undefined || !isFloat(scales)) throw say('has codes or scales of another size than it says')
  if (node.inputs[3] && (zeros?.type !== 'uint8' || zeros.bytes !== out * zeroRow)) {
    throw say('has zero points that are not packed integers')
  }
  return {
    codes: weight,
    scales,
    ...(zeros && { zeros }),
    block,
    middle: 2 ** (bits - 1),
    lowest: 0,
    highest: 2 ** bits - 1,
    code: bits === 4 ? nibbles() : whole,
    zero: bits === 4 ? nibbles(blocks, zeroRow) : whole,
    place: (i, o) => o * blocks * block + i,
    group: (i, o) => o * blocks + Math.floor(i / block),
  }
}

const TYPES: Readonly<Record<string, { readonly bits: 4 | 8; readonly isSigned: boolean }>> = {
  int4: { bits: 4, isSigned: true },
  uint4: { bits: 4, isSigned: false },
  int8: { bits: 8, isSigned: true },
  uint8: { bits: 8, isSigned: false },
}

function linearForm({ in: inSize, out, weight, transposed, node }: Site, codec: SurgeryNode, say: Say): Form {
  const scales = findTensor(codec.graph, codec.inputs[1] ?? '')
  const zeros = codec.inputs[2] ? findTensor(codec.graph, codec.inputs[2]) : undefined
  const type = TYPES[weight.type]
  if (type === undefined) throw say(`has codes of ${weight.type}`)
  if (scales === undefined || !isFloat(scales)) throw say('has scales that are not constant floats')
  if (codec.inputs[2] && zeros?.type !== weight.type) throw say('has zero points of another type than its codes')
  if ((node.floats.get('alpha') ?? 1) !== 1) throw say('has alpha')
  const rowsAreInputs = !transposed
  const [rows, columns] = rowsAreInputs ? [inSize, out] : [out, inSize]
  const given = codec.ints.get('axis') ?? 1
  const axis = given < 0 ? given + 2 : given
  const block = codec.ints.get('block_size') ?? 0
  const inputAxis = rowsAreInputs ? 0 : 1
  const count = scales.dims.reduce((total, dim) => total * dim, 1)
  if (block > 0) {
    const perInput = Math.ceil(inSize / block)
    if (axis !== inputAxis) throw say('has blocks across its outputs')
    if (count !== perInput * out) throw say('has scales of another size than it says')
    return {
      ...codesOf(type, weight, scales, zeros),
      block,
      place: (i, o) => (rowsAreInputs ? i * columns + o : o * columns + i),
      group: (i, o) => (rowsAreInputs ? Math.floor(i / block) * out + o : o * perInput + Math.floor(i / block)),
    }
  }
  const isPerOutput = scales.dims.length === 1 && count === out && axis !== inputAxis
  if (!isPerOutput || rows * columns !== inSize * out) throw say('has one scale for many outputs')
  return {
    ...codesOf(type, weight, scales, zeros),
    block: inSize,
    place: (i, o) => (rowsAreInputs ? i * columns + o : o * columns + i),
    group: (_, o) => o,
  }
}

function codesOf(
  { bits, isSigned }: { bits: 4 | 8; isSigned: boolean },
  codes: SurgeryTensor,
  scales: SurgeryTensor,
  zeros: SurgeryTensor | undefined,
) {
  const plain = bits === 4 ? nibbles() : whole
  const code = isSigned ? signed(plain, bits) : plain
  const lowest = isSigned ? -(2 ** (bits - 1)) : 0
  const form = { codes, scales, ...(zeros && { zeros }), middle: 0, lowest, highest: lowest + 2 ** bits - 1 }
  return { ...form, code, zero: code }
}

const isFloat = ({ type }: SurgeryTensor) => type === 'float32' || type === 'float16'

function fitBlock(values: Float64Array, form: Form, hasZeros: boolean, about: string) {
  const { lowest, highest, middle } = form
  const round = form.scales.type === 'float16' ? (value: number) => fromHalf(toHalf(value)) : Math.fround
  const checked = (scale: number) => {
    const rounded = round(scale)
    // A half beyond its range comes back as 65536 or more.
    if (Number.isFinite(rounded) && !(form.scales.type === 'float16' && Math.abs(rounded) > 65504)) return rounded
    throw inputError('merge-overflow', `${about}: a scale of ${scale} is beyond ${form.scales.type}; lower the weights`)
  }
  let [lo, hi] = [0, 0]
  for (const value of values) {
    if (value < lo) lo = value
    if (value > hi) hi = value
  }
  if (!hasZeros) {
    // The largest entry has its own code, which the negative end has one more of.
    const far = hi > -lo ? hi : lo
    return { scale: checked(lowest < middle ? far / (lowest - middle) : far / (highest - middle)), zero: middle }
  }
  const scale = checked((hi - lo) / (highest - lowest))
  const zero = scale === 0 ? lowest : Math.round(lowest - lo / scale)
  return { scale, zero: Math.min(highest, Math.max(lowest, zero)) }
}

function floats(bytes: Uint8Array<ArrayBuffer>, type: string): Float32Array {
  return new Float32Array(decodeFloats(bytes, type === 'float16' ? 'F16' : 'F32'))
}

function bytesOf(values: Float32Array, type: string): Uint8Array {
  const stored = type === 'float16' ? Uint16Array.from(values, toHalf) : values
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength)
}
