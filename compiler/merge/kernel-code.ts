// The merge of one block of rows as WebAssembly SIMD, one function a stored type:
//
//   target[i, j] = round( source[i, j] + Σₖ left[i, k]·right[k, j] )
//
// F16 and BF16 sum in fp32, F32 in fp64, each element over k in order and by itself: the result does not depend on how
// rows are blocked or shared out. Multiplications and additions round separately, which every machine does alike; the
// fused ones of relaxed SIMD are left alone for that reason.
//
// A step makes 4 rows × one group of columns in registers, so each value of `right` that is loaded serves 4 rows. The
// last step of a row or column begins early enough to be a whole one and writes some elements again, with the same
// value, because source and target are apart.
import type { FloatDtype } from '../safetensors/dtypes.ts'
import { type Code, FunctionBuilder, f32x4, f64x2, i32, i32x4, type Local, repeatWhile, v128 } from './assembler.ts'

/** Rows of a step. */
export const STEP_ROWS = 4

/** Columns of a step: as many as fill two vectors of sums. */
export const STEP_COLUMNS: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 8, BF16: 8 }

/** Bytes of one k in `right` (a group of columns) and in `left` (four rows), in the type of the sums. */
export const RIGHT_BYTES = 32
export const LEFT_BYTES: Readonly<Record<FloatDtype, number>> = { F32: 32, F16: 16, BF16: 16 }

/** Where a float's absolute bits begin to round to infinity; NaN is above all of them. */
export const OVERFLOW_BITS: Readonly<Record<FloatDtype, number>> = {
  F32: 0x7f800000,
  F16: 0x477ff000,
  BF16: 0x7f7f8000,
}

/** What differs between the stored types. */
interface Format {
  readonly elementBytes: number
  readonly add: (a: Code, b: Code) => Code
  readonly multiply: (a: Code, b: Code) => Code
  readonly splat: (offset: number, address: Code) => Code
  /** Reads a row's group of columns, adds the two vectors of sums, and writes it rounded. */
  readonly finish: (low: Code, high: Code, from: Code, to: Code, locals: FinishLocals) => Code
}

interface FinishLocals {
  readonly stored: Local
  readonly low: Local
  readonly high: Local
  readonly scratch: Local
  /** Largest absolute bits of an unrounded result so far, per lane. */
  readonly largest: Local
}

/**
 * (source, target, left, right, rows, columns, rank, tile) → the largest absolute value before rounding, as the bits of
 * a float. rows ≥ 4, columns ≥ one group, rank ≥ 1. left [ceil(rows / 4), rank, 4]; right [groups, rank, group].
 * `tile`: groups per pass over the rows, so many that their part of `right` stays in the first-level cache.
 */
export function mergeFunction(dtype: FloatDtype): { name: string; type: Code; code: Code } {
  const format = FORMATS[dtype]
  const build = new FunctionBuilder(dtype, 8)
  const [source, target, left, right, rows, columns, rank, tile] = build.parameters as Eight<Local>
  const [group, tileEnd, groups, row, leftRow, l, r, rEnd] = times(8, () => build.local('i32')) as Eight<Local>
  const at = build.local('i32')
  const sums = times(2 * STEP_ROWS, () => build.local('v128'))
  const [rightLow, rightHigh, factor] = times(3, () => build.local('v128')) as [Local, Local, Local]
  const finishLocals: FinishLocals = {
    stored: rightLow,
    low: rightHigh,
    high: factor,
    scratch: build.local('v128'),
    largest: build.local('v128'),
  }
  const groupColumns = STEP_COLUMNS[dtype]
  const leftBytes = LEFT_BYTES[dtype]
  const rowBytes = i32.mul(columns.get, i32.const(format.elementBytes))

  const overRank: Code = [
    ...rightLow.set(v128.load(0, r.get)),
    ...rightHigh.set(v128.load(16, r.get)),
    ...times(STEP_ROWS, (i) => [
      ...factor.set(format.splat((i * leftBytes) / STEP_ROWS, l.get)),
      ...accumulate(sums[2 * i] as Local, rightLow),
      ...accumulate(sums[2 * i + 1] as Local, rightHigh),
    ]).flat(),
    ...l.set(i32.add(l.get, i32.const(leftBytes))),
    ...r.set(i32.add(r.get, i32.const(RIGHT_BYTES))),
  ]
  function accumulate(sum: Local, values: Local): Code {
    return sum.set(format.add(sum.get, format.multiply(values.get, factor.get)))
  }
  const firstRow = minimum(row.get, i32.sub(rows.get, i32.const(STEP_ROWS)))
  const firstColumn = minimum(
    i32.mul(group.get, i32.const(groupColumns)),
    i32.sub(columns.get, i32.const(groupColumns)),
  )
  const rightSize = i32.mul(rank.get, i32.const(RIGHT_BYTES))
  const step: Code = [
    ...sums.flatMap((sum) => sum.set(v128.zero)),
    ...l.set(leftRow.get),
    ...r.set(i32.add(right.get, i32.mul(group.get, rightSize))),
    ...rEnd.set(i32.add(r.get, rightSize)),
    ...repeatWhile(overRank, i32.lessThan(r.get, rEnd.get)),
    ...at.set(i32.add(i32.mul(firstRow, rowBytes), i32.mul(firstColumn, i32.const(format.elementBytes)))),
    ...times(STEP_ROWS, (i) => [
      ...format.finish(
        (sums[2 * i] as Local).get,
        (sums[2 * i + 1] as Local).get,
        i32.add(source.get, at.get),
        i32.add(target.get, at.get),
        finishLocals,
      ),
      ...at.set(i32.add(at.get, rowBytes)),
    ]).flat(),
    ...group.set(i32.add(group.get, i32.const(1))),
  ]
  const tileStart = i32.sub(tileEnd.get, tile.get)
  const overRows: Code = [
    ...group.set(tileStart),
    ...repeatWhile(step, i32.lessThan(group.get, minimum(tileEnd.get, groups.get))),
    ...leftRow.set(i32.add(leftRow.get, i32.mul(rank.get, i32.const(leftBytes)))),
    ...row.set(i32.add(row.get, i32.const(STEP_ROWS))),
  ]
  const overTiles: Code = [
    ...row.set(i32.const(0)),
    ...leftRow.set(left.get),
    ...repeatWhile(overRows, i32.lessThan(row.get, rows.get)),
    ...tileEnd.set(i32.add(tileEnd.get, tile.get)),
  ]
  const { largest } = finishLocals
  return {
    name: dtype,
    ...build.encode([
      ...groups.set(i32.divide(i32.add(columns.get, i32.const(groupColumns - 1)), i32.const(groupColumns))),
      ...tileEnd.set(tile.get),
      ...repeatWhile(overTiles, i32.lessThan(i32.sub(tileEnd.get, tile.get), groups.get)),
      ...times(4, (lane) => i32x4.extractLane(lane, largest.get)).reduce((a, b) => maximum(build, a, b)),
    ]),
  }
}

const FORMATS: Readonly<Record<FloatDtype, Format>> = {
  BF16: {
    elementBytes: 2,
    add: f32x4.add,
    multiply: f32x4.mul,
    splat: v128.load32Splat,
    finish: finishHalves(
      // A bfloat16 is the upper half of a float32.
      (bits) => i32x4.shiftLeft(bits, 16),
      // To nearest, ties to even: add just under half of the last place, and a whole half where that place is odd.
      (float) => {
        const odd = v128.and(i32x4.shiftRight(float.get, 16), i32x4.splat(1))
        return i32x4.shiftRight(i32x4.add(i32x4.add(float.get, odd), i32x4.splat(0x7fff)), 16)
      },
    ),
  },
  F16: {
    elementBytes: 2,
    add: f32x4.add,
    multiply: f32x4.mul,
    splat: v128.load32Splat,
    finish: finishHalves(widenHalf, roundToHalf),
  },
  F32: {
    elementBytes: 4,
    add: f64x2.add,
    multiply: f64x2.mul,
    splat: v128.load64Splat,
    finish: (low, high, from, to, { low: result, largest }) =>
      [low, high].flatMap((sum, i) => [
        ...result.set(f32x4.demote(f64x2.add(f64x2.promoteLow(v128.load64Zero(8 * i, from)), sum))),
        ...largest.set(i32x4.maxUnsigned(largest.get, absolute(result.get))),
        ...v128.storeLow64(8 * i, to, result.get),
      ]),
  },
}

/** `widen`: 16-bit patterns in 32-bit lanes → floats; `round`: a float → such a pattern. */
function finishHalves(widen: (bits: Code, scratch: Local) => Code, round: (float: Local, scratch: Local) => Code) {
  return (sumLow: Code, sumHigh: Code, from: Code, to: Code, locals: FinishLocals): Code => {
    const { stored, low, high, scratch, largest } = locals
    return [
      ...stored.set(v128.load(0, from)),
      ...low.set(f32x4.add(widen(i32x4.extendLow(stored.get), scratch), sumLow)),
      ...high.set(f32x4.add(widen(i32x4.extendHigh(stored.get), scratch), sumHigh)),
      ...largest.set(i32x4.maxUnsigned(largest.get, i32x4.maxUnsigned(absolute(low.get), absolute(high.get)))),
      ...v128.store(0, to, i32x4.narrow(round(low, scratch), round(high, scratch))),
    ]
  }
}

/**
 * A half moved 13 places left is a float 2^112 too small, subnormals included; the product restores it. Infinity and NaN
 * would become 2^16 and more, so their exponent is filled.
 */
export function widenHalf(bits: Code, scratch: Local): Code {
  const magnitude = i32x4.shiftLeft(v128.and(scratch.get, i32x4.splat(0x7fff)), 13)
  const sign = i32x4.shiftLeft(v128.and(scratch.get, i32x4.splat(0x8000)), 16)
  const special = v128.and(i32x4.greaterThanSigned(magnitude, i32x4.splat(0x0f7fffff)), i32x4.splat(0x7f800000))
  const scaled = f32x4.mul(magnitude, i32x4.splat(0x77800000))
  return [...scratch.set(bits), ...v128.or(v128.or(scaled, special), sign)]
}

/**
 * The float unit rounds: added to a power of two 2^13 above the value (or above the smallest normal half, for
 * subnormals), the value keeps exactly the bits that a half has. The two factors before it send what is too large to
 * infinity. After github.com/Maratyszcza/FP16.
 */
export function roundToHalf(float: Local, scratch: Local): Code {
  const doubled = i32x4.shiftLeft(float.get, 1)
  const bias = i32x4.maxUnsigned(v128.and(doubled, i32x4.splat(0xff000000)), i32x4.splat(0x71000000))
  const power = i32x4.add(i32x4.shiftRight(bias, 1), i32x4.splat(0x07800000))
  const value = f32x4.mul(f32x4.mul(f32x4.abs(float.get), i32x4.splat(0x77800000)), i32x4.splat(0x08800000))
  const exponent = v128.and(i32x4.shiftRight(scratch.get, 13), i32x4.splat(0x7c00))
  const magnitude = i32x4.add(exponent, v128.and(scratch.get, i32x4.splat(0x0fff)))
  const sign = v128.and(i32x4.shiftRight(float.get, 16), i32x4.splat(0x8000))
  return [...scratch.set(f32x4.add(value, power)), ...v128.or(magnitude, sign)]
}

export function absolute(float: Code): Code {
  return v128.and(float, i32x4.splat(0x7fffffff))
}

export function minimum(a: Code, b: Code): Code {
  return i32.select(a, b, i32.lessThan(a, b))
}

export function maximum(build: FunctionBuilder, a: Code, b: Code): Code {
  const [x, y] = [build.local('i32'), build.local('i32')]
  return [...x.set(a), ...y.set(b), ...i32.select(x.get, y.get, i32.lessThan(y.get, x.get))]
}

export function times<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index))
}

type Eight<T> = [T, T, T, T, T, T, T, T]
