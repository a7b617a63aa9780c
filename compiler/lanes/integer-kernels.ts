// quantise/nbits.ts as WebAssembly SIMD, to the bit: the same doubles in the same order, two at a time. The algebra is there.
import {
  type Code,
  FunctionBuilder,
  f32x4,
  f64x2,
  i8x16,
  i32,
  i32x4,
  type Local,
  repeatWhile,
  v128,
} from '../merge/assembler.ts'
import { roundToHalf, times, widenHalf } from '../merge/kernel-code.ts'
import { SEARCH, SHIFTS } from '../quantise/nbits.ts'
import type { IntegerSpec } from '../quantise/spec.ts'
import { bothLanes, type Kernel, promoteHigh, storeSums } from './float-kernels.ts'

/** Weights of a step, and the smallest block. */
const STEP = 8

type Form = Pick<IntegerSpec, 'bits' | 'grid' | 'search'>

export const integerName = ({ bits, grid, search }: Form) => `int${bits}.${grid}.${search ? 'search' : 'rtn'}`

/**
 * (values, codes, scales, offsets, zeroPoints, sums, blocks, block) → 0. `values`: finite float32. Halves go to `scales`
 * and `offsets`, a byte each to `zeroPoints`, Σ (ŵ − w)² and Σ w² as doubles to `sums`. At least one block.
 */
export function integerKernel(form: Form): Kernel {
  const { bits, grid, search } = form
  const build = new FunctionBuilder(integerName(form), 8)
  const [values, codes, scales, offsets, zeroPoints, sums, blocks, block] = build.parameters as Eight
  const [at, end] = times(2, () => build.local('i32')) as [Local, Local]
  const v = (): Local => build.local('v128')
  const [lo, hi, x, pair, quotient, scratch] = times(6, v) as [Local, Local, Local, Local, Local, Local]
  const [words, lowWords] = [v(), v()]
  const [errors, norms, error, norm, difference] = times(5, v) as [Local, Local, Local, Local, Local]
  const candidate: Candidate = {
    half: v(),
    offsetHalf: v(),
    scale: v(),
    zero: v(),
    offset: v(),
    inverse: v(),
    shift: v(),
  }
  const best: Chosen = { half: v(), offsetHalf: v(), scale: v(), zero: v() }
  const [bestError, better, size] = [v(), v(), v()]
  const top = 2 ** bits - 1
  const middle = 2 ** (bits - 1)

  /** Over the block at `values`: `error` of the candidate, and, where wanted, its codes and the norm. */
  const pass = (emits: boolean): Code => {
    const half = (doubles: Code): Code => [
      ...pair.set(doubles),
      ...quotient.set(
        i32x4.truncate(
          f64x2.least(
            f64x2.most(f64x2.add(f64x2.mul(pair.get, candidate.inverse.get), candidate.shift.get), f64x2.const(0)),
            f64x2.const(top),
          ),
        ),
      ),
      ...difference.set(
        f64x2.sub(
          centre(f64x2.mul(f64x2.sub(f64x2.convert(quotient.get), candidate.zero.get), candidate.scale.get)),
          pair.get,
        ),
      ),
      ...error.set(f64x2.add(error.get, f64x2.mul(difference.get, difference.get))),
      ...(emits ? norm.set(f64x2.add(norm.get, f64x2.mul(pair.get, pair.get))) : []),
    ]
    const centre = (product: Code) => (grid === 'affine' ? f64x2.add(product, candidate.offset.get) : product)
    const four = (offset: number, into: Local): Code => [
      ...x.set(v128.load(offset, at.get)),
      ...half(f64x2.promoteLow(x.get)),
      ...(emits ? into.set(quotient.get) : []),
      ...half(promoteHigh(x)),
      ...(emits ? into.set(v128.shuffle(into.get, quotient.get, [0, 1, 4, 5])) : []),
    ]
    return [
      ...error.set(v128.zero),
      ...at.set(values.get),
      ...repeatWhile(
        [
          ...four(0, lowWords),
          ...four(16, words),
          ...(emits ? emit() : []),
          ...at.set(i32.add(at.get, i32.const(4 * STEP))),
        ],
        i32.lessThan(at.get, end.get),
      ),
      ...error.set(bothLanes(error)),
    ]
  }
  /** Eight codes: sixteen-bit lanes, then a byte each, or a byte for two with the first one low. */
  const emit = (): Code => {
    const packed = i32x4.narrow(lowWords.get, words.get)
    const advance = codes.set(i32.add(codes.get, i32.const((STEP * bits) / 8)))
    if (bits === 8) {
      return [...words.set(packed), ...v128.storeLow64(0, codes.get, i8x16.narrow(words.get, words.get)), ...advance]
    }
    return [
      ...words.set(packed),
      ...words.set(v128.and(v128.or(words.get, i32x4.shiftRight(words.get, 12)), i32x4.splat(0xff))),
      ...words.set(i32x4.narrow(words.get, words.get)),
      ...v128.storeLow32(0, codes.get, i8x16.narrow(words.get, words.get)),
      ...advance,
    ]
  }

  /** `size` → the half in lane 0 and the double that it is. */
  const round = (from: Code, bitsOf: Local, value: Local): Code => [
    ...x.set(f32x4.demote(from)),
    ...bitsOf.set(roundToHalf(x, scratch)),
    ...value.set(f64x2.promoteLow(widenHalf(bitsOf.get, scratch))),
    // The low two lanes of a demotion are the two doubles, the same here.
  ]
  const prepare: Code = [
    ...candidate.inverse.set(
      v128.and(f64x2.divide(f64x2.const(1), candidate.scale.get), f64x2.notEqual(candidate.scale.get, f64x2.const(0))),
    ),
    ...candidate.shift.set(
      grid === 'affine'
        ? f64x2.sub(f64x2.const(middle + 0.5), f64x2.mul(candidate.offset.get, candidate.inverse.get))
        : f64x2.add(candidate.zero.get, f64x2.const(0.5)),
    ),
  ]
  const consider = (allowed?: Code): Code => {
    const first = f64x2.equal(bestError.get, f64x2.const(Number.POSITIVE_INFINITY))
    const accepted = v128.or(f64x2.less(error.get, bestError.get), first)
    return [
      ...prepare,
      ...pass(false),
      ...better.set(allowed === undefined ? accepted : v128.and(accepted, allowed)),
      ...bestError.set(v128.select(error.get, bestError.get, better.get)),
      ...(['half', 'offsetHalf', 'scale', 'zero'] as const).flatMap((name) =>
        best[name].set(v128.select(candidate[name].get, best[name].get, better.get)),
      ),
    ]
  }
  /** The candidate for each factor and shift of a search; `use` is what is done with it. */
  const candidates = (use: (allowed?: Code) => Code): Code => {
    const factors = search ? SEARCH : [1]
    const range = f64x2.sub(hi.get, lo.get)
    if (grid === 'symmetric') {
      const whole = f64x2.divide(
        v128.select(hi.get, lo.get, f64x2.greater(hi.get, f64x2.negate(lo.get))),
        f64x2.const(-middle),
      )
      return factors.flatMap((factor) => [
        ...round(f64x2.mul(whole, f64x2.const(factor)), candidate.half, candidate.scale),
        ...candidate.zero.set(f64x2.const(middle)),
        ...use(),
      ])
    }
    if (grid === 'affine') {
      return factors.flatMap((factor) => [
        ...round(
          f64x2.mul(f64x2.divide(range, f64x2.const(top)), f64x2.const(factor)),
          candidate.half,
          candidate.scale,
        ),
        ...size.set(f64x2.add(lo.get, f64x2.divide(f64x2.mul(range, f64x2.const(1 - factor)), f64x2.const(2)))),
        ...round(
          f64x2.add(size.get, f64x2.mul(f64x2.const(middle), candidate.scale.get)),
          candidate.offsetHalf,
          candidate.offset,
        ),
        ...candidate.zero.set(f64x2.const(middle)),
        ...use(),
      ])
    }
    return factors.flatMap((factor) => [
      ...size.set(f64x2.mul(f64x2.divide(range, f64x2.const(top)), f64x2.const(factor))),
      ...round(size.get, candidate.half, candidate.scale),
      ...pair.set(f64x2.divide(f64x2.negate(lo.get), size.get)),
      ...quotient.set(f64x2.ceil(pair.get)),
      // Half up: down again from the ceiling where that is more than half above.
      ...quotient.set(
        f64x2.sub(
          quotient.get,
          v128.and(f64x2.greater(f64x2.sub(quotient.get, f64x2.const(0.5)), pair.get), f64x2.const(1)),
        ),
      ),
      ...quotient.set(f64x2.least(f64x2.most(quotient.get, f64x2.const(0)), f64x2.const(top))),
      ...norm.set(v128.and(quotient.get, f64x2.notEqual(size.get, f64x2.const(0)))),
      ...(search ? SHIFTS : [0]).flatMap((shift) => [
        ...candidate.zero.set(f64x2.add(norm.get, f64x2.const(shift))),
        ...use(
          v128.and(
            f64x2.atLeast(candidate.zero.get, f64x2.const(0)),
            f64x2.atMost(candidate.zero.get, f64x2.const(top)),
          ),
        ),
      ]),
    ])
  }
  const choose: Code = search
    ? [
        ...bestError.set(f64x2.const(Number.POSITIVE_INFINITY)),
        ...candidates(consider),
        ...candidate.half.set(best.half.get),
        ...candidate.offsetHalf.set(best.offsetHalf.get),
        ...candidate.scale.set(best.scale.get),
        ...candidate.zero.set(best.zero.get),
        ...(grid === 'affine'
          ? candidate.offset.set(f64x2.promoteLow(widenHalf(candidate.offsetHalf.get, scratch)))
          : []),
      ]
    : candidates(() => [])

  const extremes: Code = [
    ...lo.set(v128.load32Splat(0, values.get)),
    ...hi.set(lo.get),
    ...at.set(values.get),
    ...repeatWhile(
      [
        ...[0, 16].flatMap((offset) => [
          ...x.set(v128.load(offset, at.get)),
          ...lo.set(f32x4.least(lo.get, x.get)),
          ...hi.set(f32x4.most(hi.get, x.get)),
        ]),
        ...at.set(i32.add(at.get, i32.const(4 * STEP))),
      ],
      i32.lessThan(at.get, end.get),
    ),
    ...[
      { values: lo, of: f32x4.least },
      { values: hi, of: f32x4.most },
    ].flatMap((extreme) => [
      ...extreme.values.set(
        extreme.of(extreme.values.get, v128.shuffle(extreme.values.get, extreme.values.get, [2, 3, 0, 1])),
      ),
      ...extreme.values.set(
        extreme.of(extreme.values.get, v128.shuffle(extreme.values.get, extreme.values.get, [1, 0, 3, 2])),
      ),
      ...extreme.values.set(f64x2.promoteLow(extreme.values.get)),
    ]),
    ...(grid === 'asymmetric'
      ? [...lo.set(f64x2.least(lo.get, f64x2.const(0))), ...hi.set(f64x2.most(hi.get, f64x2.const(0)))]
      : []),
  ]

  const overBlocks: Code = [
    ...end.set(i32.add(values.get, i32.mul(block.get, i32.const(4)))),
    ...extremes,
    ...choose,
    ...prepare,
    ...norm.set(v128.zero),
    ...pass(true),
    ...errors.set(f64x2.add(errors.get, error.get)),
    ...norms.set(f64x2.add(norms.get, norm.get)),
    ...v128.storeLow16(0, scales.get, candidate.half.get),
    ...scales.set(i32.add(scales.get, i32.const(2))),
    ...(grid === 'affine'
      ? [
          ...v128.storeLow16(0, offsets.get, candidate.offsetHalf.get),
          ...offsets.set(i32.add(offsets.get, i32.const(2))),
        ]
      : []),
    ...(grid === 'asymmetric'
      ? [
          ...v128.storeLow8(0, zeroPoints.get, i32x4.truncate(candidate.zero.get)),
          ...zeroPoints.set(i32.add(zeroPoints.get, i32.const(1))),
        ]
      : []),
    ...values.set(end.get),
    ...blocks.set(i32.sub(blocks.get, i32.const(1))),
  ]
  return {
    name: build.name,
    ...build.encode([
      ...repeatWhile(overBlocks, i32.lessThan(i32.const(0), blocks.get)),
      // Of errors both lanes hold the sum already.
      ...errors.set(f64x2.mul(errors.get, f64x2.const(0.5))),
      ...storeSums(sums, errors, norms),
      ...i32.const(0),
    ]),
  }
}

interface Chosen {
  /** The bits of the scale, in the low lanes. */
  readonly half: Local
  readonly offsetHalf: Local
  /** Both doubles alike, as all that follow. */
  readonly scale: Local
  readonly zero: Local
}

interface Candidate extends Chosen {
  readonly offset: Local
  readonly inverse: Local
  /** zero + ½ − offset / scale */
  readonly shift: Local
}

type Eight = [Local, Local, Local, Local, Local, Local, Local, Local]
