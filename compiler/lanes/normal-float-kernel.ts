// quantise/nf4.ts as WebAssembly SIMD, to the bit: the same doubles in the same order. The algebra is there.
import {
  type Code,
  FunctionBuilder,
  f32x4,
  f64x2,
  i32,
  i32x4,
  i64x2,
  type Local,
  repeatWhile,
  v128,
} from '../merge/assembler.ts'
import { minimum, times } from '../merge/kernel-code.ts'
import { EDGES, GROUP, NF4 } from '../quantise/nf4.ts'
import { type Kernel, promoteHigh, storeSums } from './float-kernels.ts'

export const NORMAL_FLOAT = 'nf4'
/** The doubles of the table, which the function looks values up in. */
export const TABLE_BYTES = 8 * NF4.length

/**
 * (values, codes, magnitudes, scales, sums, table, blocks, block) → 0. `values`: finite float32 from the start of a group.
 * `magnitudes`: a byte a block; `scales`: a float32 a group. Behind the two doubles of `sums` there is room for a float32
 * for each block of a group.
 */
export function normalFloatKernel(): Kernel {
  const build = new FunctionBuilder(NORMAL_FLOAT, 8)
  const [values, codes, magnitudes, scales, sums, table, blocks, block] = build.parameters as Eight
  const [at, end, left, groupBlocks, largestAt, high, low] = times(7, () => build.local('i32')) as Seven
  const v = (): Local => build.local('v128')
  const [x, most, groupMost, scale, size, inverse, pair, count] = times(8, v) as Eight
  const [error, norm, found, rounded] = times(4, v) as [Local, Local, Local, Local]

  const bytes = i32.mul(block.get, i32.const(4))
  const largestOf: Code = [
    ...end.set(i32.add(at.get, bytes)),
    ...most.set(v128.zero),
    ...repeatWhile(
      [...most.set(f32x4.most(most.get, f32x4.abs(v128.load(0, at.get)))), ...at.set(i32.add(at.get, i32.const(16)))],
      i32.lessThan(at.get, end.get),
    ),
    ...most.set(f32x4.most(most.get, v128.shuffle(most.get, most.get, [2, 3, 0, 1]))),
    ...most.set(f32x4.most(most.get, v128.shuffle(most.get, most.get, [1, 0, 3, 2]))),
    ...groupMost.set(f32x4.most(groupMost.get, most.get)),
    ...v128.storeLow32(0, largestAt.get, most.get),
    ...largestAt.set(i32.add(largestAt.get, i32.const(4))),
    ...left.set(i32.sub(left.get, i32.const(1))),
  ]
  const isNotZero = (value: Local) => f64x2.notEqual(value.get, f64x2.const(0))
  /** Two codes, the first one high. */
  const two = (doubles: Code): Code => [
    ...pair.set(doubles),
    ...found.set(f64x2.mul(pair.get, inverse.get)),
    ...count.set(v128.zero),
    // A comparison that holds is −1.
    ...EDGES.flatMap((edge) => count.set(i64x2.sub(count.get, f64x2.atLeast(found.get, f64x2.const(edge))))),
    ...high.set(i32x4.extractLane(0, count.get)),
    ...low.set(i32x4.extractLane(2, count.get)),
    ...i32.store8(codes.get, i32.or(i32.shiftLeft(high.get, 4), low.get)),
    ...codes.set(i32.add(codes.get, i32.const(1))),
    ...found.set(v128.load64Zero(0, i32.add(table.get, i32.shiftLeft(high.get, 3)))),
    ...found.set(v128.loadHigh64(0, i32.add(table.get, i32.shiftLeft(low.get, 3)), found.get)),
    ...found.set(f64x2.sub(f64x2.mul(found.get, size.get), pair.get)),
    ...error.set(f64x2.add(error.get, f64x2.mul(found.get, found.get))),
    ...norm.set(f64x2.add(norm.get, f64x2.mul(pair.get, pair.get))),
  ]
  const overBlock: Code = [
    ...most.set(f64x2.promoteLow(v128.load32Splat(0, largestAt.get))),
    ...pair.set(f64x2.divide(most.get, scale.get)),
    ...rounded.set(f64x2.ceil(pair.get)),
    ...rounded.set(
      f64x2.sub(
        rounded.get,
        v128.and(f64x2.greater(f64x2.sub(rounded.get, f64x2.const(0.5)), pair.get), f64x2.const(1)),
      ),
    ),
    ...rounded.set(f64x2.least(f64x2.most(rounded.get, f64x2.const(1)), f64x2.const(255))),
    ...rounded.set(v128.and(rounded.get, v128.and(isNotZero(most), isNotZero(scale)))),
    ...v128.storeLow8(0, magnitudes.get, i32x4.truncate(rounded.get)),
    ...size.set(f64x2.promoteLow(f32x4.demote(f64x2.mul(rounded.get, scale.get)))),
    ...inverse.set(v128.and(f64x2.divide(f64x2.const(1), size.get), isNotZero(size))),
    ...end.set(i32.add(values.get, bytes)),
    ...repeatWhile(
      [
        ...x.set(v128.load(0, values.get)),
        ...two(f64x2.promoteLow(x.get)),
        ...two(promoteHigh(x)),
        ...values.set(i32.add(values.get, i32.const(16))),
      ],
      i32.lessThan(values.get, end.get),
    ),
    ...largestAt.set(i32.add(largestAt.get, i32.const(4))),
    ...magnitudes.set(i32.add(magnitudes.get, i32.const(1))),
    ...left.set(i32.sub(left.get, i32.const(1))),
  ]
  const largestStart = i32.add(sums.get, i32.const(16))
  const overGroup: Code = [
    ...groupBlocks.set(minimum(blocks.get, i32.const(GROUP))),
    ...groupMost.set(v128.zero),
    ...at.set(values.get),
    ...left.set(groupBlocks.get),
    ...largestAt.set(largestStart),
    ...repeatWhile(largestOf, i32.lessThan(i32.const(0), left.get)),
    ...x.set(f32x4.demote(f64x2.divide(f64x2.promoteLow(groupMost.get), f64x2.const(255)))),
    ...v128.storeLow32(0, scales.get, x.get),
    ...scales.set(i32.add(scales.get, i32.const(4))),
    ...scale.set(f64x2.promoteLow(x.get)),
    ...left.set(groupBlocks.get),
    ...largestAt.set(largestStart),
    ...repeatWhile(overBlock, i32.lessThan(i32.const(0), left.get)),
    ...blocks.set(i32.sub(blocks.get, groupBlocks.get)),
  ]
  return {
    name: NORMAL_FLOAT,
    ...build.encode([
      ...repeatWhile(overGroup, i32.lessThan(i32.const(0), blocks.get)),
      ...storeSums(sums, error, norm),
      ...i32.const(0),
    ]),
  }
}

type Seven = [Local, Local, Local, Local, Local, Local, Local]
type Eight = [Local, Local, Local, Local, Local, Local, Local, Local]
