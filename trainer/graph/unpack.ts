// A weight that is stored in few bits, as a float matrix [out, in] for one use: each use unpacks it, and no use outlives
// the operator that reads it. What is unpacked hangs on the activation that meets it, so that ONNX Runtime can neither
// fold it into a float weight when it loads the graph nor share one copy between the forward and the backward pass.
//
//   int4, int8    W = (q − z)·s, per block along `in`: DequantizeLinear; + c where the grid is affine
//   nf4           W = table[q]·absmax, absmax = k·scale: two codes a byte, so a table of 256 pairs
//   float16       W = float(h)
import { assert } from '../../compiler/errors.ts'
import type { ExternalTensor } from '../../compiler/onnx/model.ts'
import { NF4 } from '../../compiler/quantise/nf4.ts'
import { quantisedNames } from '../../compiler/quantise/place.ts'
import type { GraphWriter } from '../autodiff/writer.ts'

/** TensorProto.DataType */
const FLOAT = 1
const INT32 = 6
const PAIRS = 'nf4.pairs'

/** Computes W [out, in] anew, once `after` is there. */
export type Unpack = (after: string) => string

/** `weight`: the name that the float weight would have. `undefined` where it is stored as float32. */
export function unpackWeight(w: GraphWriter, weight: string): Unpack | undefined {
  const names = quantisedNames(weight)
  const half = w.findWeight(names.half)
  if (half !== undefined) {
    return (after) => w.node('Cast', `${weight}.float`, [w.after(names.half, [after], `${weight}.now`)], { to: FLOAT })
  }
  const nf4 = w.findWeight(names.nf4)
  if (nf4?.quantised !== undefined) return (after) => unpackNf4(w, weight, nf4.quantised as Shape, after)
  for (const storage of ['int4', 'int8'] as const) {
    const codes = w.findWeight(names[storage])
    if (codes?.quantised !== undefined) return unpackIntegers(w, weight, storage, codes, codes.quantised)
  }
  return undefined
}

type Shape = NonNullable<ExternalTensor['quantised']>

function unpackIntegers(
  w: GraphWriter,
  weight: string,
  storage: 'int4' | 'int8',
  codes: ExternalTensor,
  shape: Shape,
): Unpack {
  const { in: inSize, out, block } = shape
  const perRow = inSize / block
  const names = quantisedNames(weight)
  const { quantised: _, ...bytes } = codes
  const type = storage === 'int4' ? 'uint4' : 'uint8'
  const matrix = w.weight({ ...bytes, name: `${names[storage]}_matrix`, type, dims: [out, inSize] })
  const zero = zeroPoints(w, weight, storage, out, perRow)
  const scales = floatsOf(w, names.scales, [out, perRow])
  const offsets = w.findWeight(names.offsets) === undefined ? undefined : floatsOf(w, names.offsets, [out, perRow, 1])
  return (after) => {
    const now = w.after(scales, [after], `${weight}.now`)
    const plain = w.node('DequantizeLinear', `${weight}.float`, [matrix, now, zero], { axis: 1, block_size: block })
    if (offsets === undefined) return plain
    const apart = w.reshape(plain, [out, perRow, block], `${weight}.blocks`)
    return w.reshape(w.node('Add', `${weight}.moved`, [apart, offsets]), [out, inSize], `${weight}.matrix`)
  }
}

/** Halves of the file as float32; folded when the graph is loaded, a few bits a weight. */
function floatsOf(w: GraphWriter, name: string, shape: readonly number[]): string {
  const float = `${name}.train`
  const cast = w.has(float) ? float : w.node('Cast', float, [name], { to: FLOAT })
  return w.reshape(cast, shape, `${name}.blocks`)
}

/** DequantizeLinear takes no zero point for 0, MatMulNBits for the middle. */
function zeroPoints(w: GraphWriter, weight: string, storage: 'int4' | 'int8', out: number, perRow: number): string {
  const stored = w.findWeight(quantisedNames(weight).zeroPoints)
  const isFour = storage === 'int4'
  if (stored !== undefined && !(isFour && perRow % 2 === 1)) {
    return w.weight({ ...stored, name: `${stored.name}_matrix`, type: isFour ? 'uint4' : 'uint8', dims: [out, perRow] })
  }
  assert(stored === undefined, `${weight}: rows of ${perRow} blocks end in half a byte`)
  const name = `zero.${storage}.${out}.${perRow}`
  const data = new Uint8Array(Math.ceil((out * perRow) / (isFour ? 2 : 1))).fill(isFour ? 0x88 : 0x80)
  return w.has(name) ? name : w.constant({ name, dims: [out, perRow], data, ...(isFour && { type: 'uint4' as const }) })
}

function unpackNf4(w: GraphWriter, weight: string, { in: inSize, out, block }: Shape, after: string): string {
  const names = quantisedNames(weight)
  const blocks = (out * inSize) / block
  const codes = w.node('Cast', `${weight}.codes`, [w.after(names.nf4, [after], `${weight}.now`)], { to: INT32 })
  const pairs = w.node('Gather', `${weight}.pairs`, [pairTable(w), codes], { axis: 0 })
  const apart = w.reshape(pairs, [blocks, block], `${weight}.blocks`)
  const whole = w.node('Mul', `${weight}.float`, [apart, largest(w, weight, blocks)])
  return w.reshape(whole, [out, inSize], `${weight}.matrix`)
}

/** k·scale of each block, [blocks, 1]; folded when the graph is loaded. */
function largest(w: GraphWriter, weight: string, blocks: number): string {
  const names = quantisedNames(weight)
  const name = `${names.magnitudes}.train`
  if (w.has(name)) return name
  const codes = w.node('Cast', `${name}.codes`, [names.magnitudes], { to: FLOAT })
  const grouped = w.node('Mul', `${name}.groups`, [codes, names.magnitudeScales])
  const flat = w.node('Reshape', `${name}.flat`, [grouped, w.ints(-1, 1)])
  return w.node('Slice', name, [flat, w.ints(0), w.ints(blocks), w.ints(0)])
}

/** Row b: the values of the byte b, whose high half comes first. */
function pairTable(w: GraphWriter): string {
  if (w.has(PAIRS)) return PAIRS
  const data = Float32Array.from({ length: 512 }, (_, at) => {
    const byte = at >> 1
    return NF4[at % 2 === 0 ? byte >> 4 : byte & 15] as number
  })
  return w.constant({ name: PAIRS, dims: [256, 2], data })
}
