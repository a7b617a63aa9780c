// One tensor of a checkpoint → the parts of its quantised form. The codes stream; what there is per block, at most a
// quarter of them, is kept until they are written.
import { inputError } from '../errors.ts'
import type { CodedSpan, Coding, WeightLanes } from '../lanes/weight-lanes.ts'
import { OVERFLOW_BITS } from '../merge/kernel-code.ts'
import { decodeFloats, ELEMENT_BYTES, firstNonFinite } from '../safetensors/decode.ts'
import type { FloatTensorSource } from '../safetensors/stream.ts'
import { quantiseCompensated } from './gptq.ts'
import { fromHalf, toHalves } from './half.ts'
import { packZeroPoints, quantiseBlocks } from './nbits.ts'
import { GROUP, magnitudes, quantiseMagnitudes, quantiseNf4 } from './nf4.ts'
import type { Part } from './place.ts'
import { gridOf, type IntegerSpec, type QuantiseOptions, type Storage } from './spec.ts'

/** Weights at a time: the floats take 4 MB. */
const CHUNK_WEIGHTS = 1024 * 1024
const INFINITE_HALF = 0x7c00

/** How well one weight is kept. */
export interface LayerError {
  readonly module: string
  readonly storage: Storage
  /** ‖Ŵ − W‖ / ‖W‖, Frobenius. */
  readonly relativeError: number
  readonly weights: number
  readonly bytes: number
}

/** Changes rows `first` … of W [out, in] in place, before they are quantised. */
export type ChangeRows = (values: Float32Array, first: number) => void

/** `factor`: quantise/gptq.ts; with it, or with `change`, no lanes are used. */
export interface Means {
  readonly change?: ChangeRows
  readonly lanes?: WeightLanes
  readonly factor?: Float64Array
}

/**
 * Yields the codes first, then the other parts whole; `onError` is told at the end. A piece is the caller's until the next
 * is asked for.
 */
export async function* quantiseTensor(
  tensor: FloatTensorSource,
  module: string,
  storage: Exclude<Storage, 'float32'>,
  options: QuantiseOptions,
  { change, lanes, factor }: Means,
  onError: (error: LayerError) => void,
): AsyncGenerator<{ part: Part; bytes: Uint8Array }> {
  const [out = 0, inSize = 0] = tensor.shape
  const weights = out * inSize
  let squaredError = 0
  let squaredNorm = 0
  let bytes = 0
  const made = (part: Part, piece: Uint8Array) => {
    bytes += piece.length
    return { part, bytes: piece }
  }
  const kept: Kept = { scales: [], zeroPoints: [], offsets: [] }
  const pieces =
    change === undefined && factor === undefined && lanes?.takes(tensor)
      ? lanes.code(tensor, codingOf(storage, options))
      : plainPieces(tensor, module, storage, options, { ...(change && { change }), ...(factor && { factor }) })
  for await (const piece of pieces) {
    if (storage === 'float16') checkHalves(piece, module)
    // Copies: what a lane made is overwritten by the next span.
    for (const part of ['scales', 'offsets', 'zeroPoints'] as const) kept[part].push(new Uint8Array(piece[part]))
    squaredError += piece.squaredError
    squaredNorm += piece.squaredNorm
    yield made(storage === 'float16' ? 'halves' : 'codes', piece.codes)
  }
  const scales = join(kept.scales)
  checkScales(scales, storage, module)
  if (scales.length > 0) yield made('scales', scales)
  const offsets = join(kept.offsets)
  checkScales(offsets, storage, module)
  if (offsets.length > 0) yield made('offsets', offsets)
  const zeroPoints = join(kept.zeroPoints)
  if (zeroPoints.length > 0) {
    const perRow = inSize / options.block
    const packed = storage === 'nf4' ? zeroPoints : packZeroPoints(zeroPoints, perRow, storage === 'int4' ? 4 : 8)
    yield made('zeroPoints', packed)
  }
  const relativeError = squaredNorm === 0 ? 0 : Math.sqrt(squaredError / squaredNorm)
  onError({ module, storage, relativeError, weights, bytes })
}

interface Kept {
  readonly scales: Uint8Array[]
  readonly zeroPoints: Uint8Array[]
  readonly offsets: Uint8Array[]
}

/** How lanes make a storage. */
export function codingOf(storage: Exclude<Storage, 'float32'>, options: QuantiseOptions): Coding {
  if (storage === 'float16') return { how: 'halves' }
  if (storage === 'nf4') return { how: 'nf4', block: options.block }
  return { how: 'integers', spec: specOf(storage, options) }
}

function specOf(storage: 'int4' | 'int8', { block, grid, rounding }: QuantiseOptions): IntegerSpec {
  return { bits: storage === 'int4' ? 4 : 8, block, grid: gridOf(storage, grid), search: rounding === 'search' }
}

/** The same without lanes: for weights that are changed on the way, and for hosts without. */
async function* plainPieces(
  tensor: FloatTensorSource,
  module: string,
  storage: Exclude<Storage, 'float32'>,
  options: QuantiseOptions,
  { change, factor }: Means,
): AsyncGenerator<CodedSpan> {
  const [, inSize = 0] = tensor.shape
  for await (const { values, first } of readRows(tensor, rowsAtOnce(inSize, storage, options.block))) {
    change?.(values, first)
    const bad = firstNonFinite(values)
    if (bad >= 0) throw inputError('tensor-not-finite', `${module}: weight ${first * inSize + bad} is ${values[bad]}`)
    yield plainPiece(values, storage, options, factor)
  }
}

function plainPiece(
  values: Float32Array,
  storage: Exclude<Storage, 'float32'>,
  options: QuantiseOptions,
  factor: Float64Array | undefined,
): CodedSpan {
  const largest = storage === 'float16' ? largestBits(values) : 0
  const none = new Uint8Array(0)
  if (storage === 'float16') return { ...halvePiece(values), scales: none, offsets: none, zeroPoints: none, largest }
  if (storage === 'nf4') {
    const { block } = options
    const whole = quantiseMagnitudes(magnitudes(values, block))
    const { packed, squaredError, squaredNorm } = quantiseNf4(values, block, whole)
    const parts = { scales: asBytes(whole.scales), offsets: none, zeroPoints: whole.codes }
    return { codes: packed, ...parts, squaredError, squaredNorm, largest }
  }
  const spec = specOf(storage, options)
  const blocks =
    factor === undefined
      ? quantiseBlocks(values, spec)
      : quantiseCompensated(values, Math.sqrt(factor.length), spec, factor)
  return { ...blocks, scales: asBytes(blocks.scales), offsets: asBytes(blocks.offsets), largest }
}

function halvePiece(values: Float32Array) {
  const halves = toHalves(values)
  let squaredError = 0
  let squaredNorm = 0
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i] as number
    squaredError += (fromHalf(halves[i] as number) - value) ** 2
    squaredNorm += value * value
  }
  return { codes: asBytes(halves), squaredError, squaredNorm }
}

function largestBits(values: Float32Array): number {
  let most = 0
  for (const value of values) most = Math.max(most, Math.abs(value))
  return new Uint32Array(Float32Array.of(most).buffer)[0] as number
}

function checkHalves({ largest }: CodedSpan, module: string): void {
  if (largest < OVERFLOW_BITS.F16) return
  throw inputError('quantise-overflow', `${module}: a weight is beyond fp16, which ends at 65504; keep it with --keep`)
}

/** The scales of integers are halves; a largest weight above 65504 times the number of levels overflows. */
function checkScales(bytes: Uint8Array<ArrayBuffer>, storage: Storage, module: string): void {
  if (storage === 'nf4' || bytes.length === 0) return
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
  if (halves.every((half) => (half & INFINITE_HALF) !== INFINITE_HALF)) return
  throw inputError('quantise-overflow', `${module}: a scale is beyond fp16, which ends at 65504; keep it with --keep`)
}

/** Whole rows; for NF4 whole groups too, so that a group never waits for the next chunk. */
function rowsAtOnce(inSize: number, storage: Storage, block: number): number {
  const rows = Math.max(1, Math.floor(CHUNK_WEIGHTS / inSize))
  if (storage !== 'nf4') return rows
  let unit = GROUP
  for (let perRow = inSize / block; perRow % 2 === 0 && unit > 1; perRow /= 2) unit /= 2
  return Math.max(unit, rows - (rows % unit))
}

async function* readRows(
  tensor: FloatTensorSource,
  rows: number,
): AsyncGenerator<{ first: number; values: Float32Array<ArrayBuffer> }> {
  const [out = 0, inSize = 0] = tensor.shape
  const rowBytes = inSize * ELEMENT_BYTES[tensor.dtype]
  for (let first = 0; first < out; first += rows) {
    const count = Math.min(rows, out - first)
    const bytes = await tensor.source.read(tensor.offset + first * rowBytes, count * rowBytes)
    yield { first, values: decodeFloats(bytes, tensor.dtype) }
  }
}

function asBytes(values: Uint16Array<ArrayBuffer> | Float32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

function join(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    whole.set(piece, at)
    at += piece.length
  }
  return whole
}
