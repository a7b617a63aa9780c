// Stored floats → float32, as they lie or transposed, and float32 → halves: WebAssembly SIMD, one function a stored type.
// A function returns the largest absolute value that it met, as the bits of a float; NaN is above all of them.
import {
  type Code,
  FunctionBuilder,
  f32x4,
  f64x2,
  i32,
  i32x4,
  type Local,
  repeatWhile,
  v128,
} from '../merge/assembler.ts'
import { absolute, maximum, minimum, roundToHalf, times, widenHalf } from '../merge/kernel-code.ts'
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'

/** Elements of a step; counts are multiples of it. */
export const WIDEN_STEP = 8
/** A cache line of float32. */
export const TRANSPOSE_ROWS = 16
export const TRANSPOSE_COLUMNS = 8

export type Kernel = { readonly name: string; readonly type: Code; readonly code: Code }

export const widenName = (dtype: FloatDtype) => `widen.${dtype}`
export const transposeName = (dtype: FloatDtype) => `transpose.${dtype}`
export const HALVE = 'halve'

/** (source, target, count) */
export function widenKernel(dtype: FloatDtype): Kernel {
  const build = new FunctionBuilder(widenName(dtype), 3)
  const [source, target, count] = build.parameters as [Local, Local, Local]
  const end = build.local('i32')
  const [low, high, scratch, largest] = times(4, () => build.local('v128')) as [Local, Local, Local, Local]
  const step: Code = [
    ...load(dtype, source.get, low, high, scratch),
    ...largest.set(i32x4.maxUnsigned(largest.get, i32x4.maxUnsigned(absolute(low.get), absolute(high.get)))),
    ...v128.store(0, target.get, low.get),
    ...v128.store(16, target.get, high.get),
    ...source.set(i32.add(source.get, i32.const(WIDEN_STEP * ELEMENT_BYTES[dtype]))),
    ...target.set(i32.add(target.get, i32.const(4 * WIDEN_STEP))),
  ]
  return {
    name: build.name,
    ...build.encode([
      ...end.set(i32.add(source.get, i32.mul(count.get, i32.const(ELEMENT_BYTES[dtype])))),
      ...repeatWhile(step, i32.lessThan(source.get, end.get)),
      ...largestLane(build, largest),
    ]),
  }
}

/**
 * (source, target, rows, columns, first, count): columns `first` … of W [rows, columns] → float32 [count, rows]. At least
 * `TRANSPOSE_ROWS` rows and `TRANSPOSE_COLUMNS` columns; the last step of each begins early enough to be a whole one.
 */
export function transposeKernel(dtype: FloatDtype): Kernel {
  const build = new FunctionBuilder(transposeName(dtype), 6)
  const [source, target, rows, columns, first, count] = build.parameters as [Local, Local, Local, Local, Local, Local]
  const [row, column, fromRow, fromColumn, at, to, pitch] = times(7, () => build.local('i32')) as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ]
  const lows = times(4, () => build.local('v128')) as Four
  const highs = times(4, () => build.local('v128')) as Four
  const pairs = times(4, () => build.local('v128')) as Four
  const [scratch, largest] = times(2, () => build.local('v128')) as [Local, Local]
  const size = ELEMENT_BYTES[dtype]
  const rowBytes = i32.mul(columns.get, i32.const(size))
  /** Four rows × four columns, which go to `to` on as four rows of four. */
  const turn = ([a, b, c, d]: Four): Code => [
    ...pairs[0].set(v128.shuffle(a.get, b.get, [0, 4, 1, 5])),
    ...pairs[1].set(v128.shuffle(c.get, d.get, [0, 4, 1, 5])),
    ...pairs[2].set(v128.shuffle(a.get, b.get, [2, 6, 3, 7])),
    ...pairs[3].set(v128.shuffle(c.get, d.get, [2, 6, 3, 7])),
    ...times(4, (i) => [
      ...v128.store(
        0,
        to.get,
        v128.shuffle(
          (i < 2 ? pairs[0] : pairs[2]).get,
          (i < 2 ? pairs[1] : pairs[3]).get,
          i % 2 === 0 ? [0, 1, 4, 5] : [2, 3, 6, 7],
        ),
      ),
      ...to.set(i32.add(to.get, pitch.get)),
    ]).flat(),
  ]
  const tile: Code = [
    ...fromColumn.set(minimum(column.get, i32.sub(count.get, i32.const(TRANSPOSE_COLUMNS)))),
    ...at.set(
      i32.add(
        i32.add(source.get, i32.mul(fromRow.get, rowBytes)),
        i32.mul(i32.add(first.get, fromColumn.get), i32.const(size)),
      ),
    ),
    ...times(TRANSPOSE_ROWS / 4, (group) => [
      ...times(4, (i) => [
        ...load(dtype, at.get, lows[i] as Local, highs[i] as Local, scratch),
        ...at.set(i32.add(at.get, rowBytes)),
      ]).flat(),
      ...to.set(
        i32.add(
          i32.add(target.get, i32.mul(fromColumn.get, pitch.get)),
          i32.add(i32.mul(fromRow.get, i32.const(4)), i32.const(16 * group)),
        ),
      ),
      ...turn(lows),
      ...turn(highs),
      ...largest.set(
        [...lows, ...highs].reduce((most, values) => i32x4.maxUnsigned(most, absolute(values.get)), largest.get),
      ),
    ]).flat(),
    ...column.set(i32.add(column.get, i32.const(TRANSPOSE_COLUMNS))),
  ]
  const overRows: Code = [
    ...fromRow.set(minimum(row.get, i32.sub(rows.get, i32.const(TRANSPOSE_ROWS)))),
    ...column.set(i32.const(0)),
    ...repeatWhile(tile, i32.lessThan(column.get, count.get)),
    ...row.set(i32.add(row.get, i32.const(TRANSPOSE_ROWS))),
  ]
  return {
    name: build.name,
    ...build.encode([
      ...pitch.set(i32.mul(rows.get, i32.const(4))),
      ...repeatWhile(overRows, i32.lessThan(row.get, rows.get)),
      ...largestLane(build, largest),
    ]),
  }
}

/** (values, halves, sums, count): to nearest, ties to even; Σ (ŵ − w)² and Σ w² as two doubles into `sums`. */
export function halveKernel(): Kernel {
  const build = new FunctionBuilder(HALVE, 4)
  const [values, halves, sums, count] = build.parameters as [Local, Local, Local, Local]
  const end = build.local('i32')
  const [low, high, bits, scratch, largest, error, norm] = times(7, () => build.local('v128')) as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ]
  const [lowBits, pair] = times(2, () => build.local('v128')) as [Local, Local]
  // Exact in float32: a float and its nearest half differ by less than the half's last place.
  const measure = (value: Local, rounded: Local): Code => [
    ...bits.set(f32x4.sub(widenHalf(rounded.get, scratch), value.get)),
    ...addSquares(error, bits, pair),
    ...addSquares(norm, value, pair),
  ]
  const step: Code = [
    ...low.set(v128.load(0, values.get)),
    ...high.set(v128.load(16, values.get)),
    ...largest.set(i32x4.maxUnsigned(largest.get, i32x4.maxUnsigned(absolute(low.get), absolute(high.get)))),
    ...lowBits.set(roundToHalf(low, scratch)),
    ...bits.set(roundToHalf(high, scratch)),
    ...v128.store(0, halves.get, i32x4.narrow(lowBits.get, bits.get)),
    ...pair.set(bits.get),
    ...measure(high, pair),
    ...measure(low, lowBits),
    ...values.set(i32.add(values.get, i32.const(4 * WIDEN_STEP))),
    ...halves.set(i32.add(halves.get, i32.const(2 * WIDEN_STEP))),
  ]
  return {
    name: HALVE,
    ...build.encode([
      ...end.set(i32.add(values.get, i32.mul(count.get, i32.const(4)))),
      ...repeatWhile(step, i32.lessThan(values.get, end.get)),
      ...storeSums(sums, error, norm),
      ...largestLane(build, largest),
    ]),
  }
}

/** Both lanes: the sum of the two. */
export const bothLanes = (pair: Local): Code => f64x2.add(pair.get, v128.shuffle(pair.get, pair.get, [2, 3, 0, 1]))

/** Two doubles. */
export function storeSums(sums: Local, error: Local, norm: Local): Code {
  return [...v128.storeLow64(0, sums.get, bothLanes(error)), ...v128.storeLow64(8, sums.get, bothLanes(norm))]
}

/** The high two floats as doubles. */
export const promoteHigh = (values: Local): Code => f64x2.promoteLow(v128.shuffle(values.get, values.get, [2, 3, 2, 3]))

function addSquares(sum: Local, values: Local, pair: Local): Code {
  return [f64x2.promoteLow(values.get), promoteHigh(values)].flatMap((doubles) => [
    ...pair.set(doubles),
    ...sum.set(f64x2.add(sum.get, f64x2.mul(pair.get, pair.get))),
  ])
}

type Four = [Local, Local, Local, Local]

/** Eight stored floats as two vectors. */
function load(dtype: FloatDtype, from: Code, low: Local, high: Local, scratch: Local): Code {
  if (dtype === 'F32') return [...low.set(v128.load(0, from)), ...high.set(v128.load(16, from))]
  const widen = (bits: Code) => (dtype === 'BF16' ? i32x4.shiftLeft(bits, 16) : widenHalf(bits, scratch))
  return [
    ...high.set(v128.load(0, from)),
    ...low.set(widen(i32x4.extendLow(high.get))),
    ...high.set(widen(i32x4.extendHigh(high.get))),
  ]
}

function largestLane(build: FunctionBuilder, largest: Local): Code {
  return times(4, (lane) => i32x4.extractLane(lane, largest.get)).reduce((a, b) => maximum(build, a, b))
}
