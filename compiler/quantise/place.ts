// The tensors of one quantised weight: their names, types, sizes, and the names that the graph looks them up by.
import type { ElementType } from '../onnx/model.ts'
import { GROUP } from './nf4.ts'
import { gridOf, type IntegerSpec, type Storage } from './spec.ts'

/** `weight`: the name that the float weight has in the graph. */
export const quantisedNames = (weight: string) =>
  ({
    int4: `${weight}_Q4`,
    int8: `${weight}_Q8`,
    /** The same bytes as `int8`, shaped for GatherBlockQuantized. */
    rows: `${weight}_Q8_rows`,
    nf4: `${weight}_NF4`,
    scales: `${weight}_scales`,
    zeroPoints: `${weight}_zero_points`,
    offsets: `${weight}_offsets`,
    /** Double quantisation. */
    magnitudes: `${weight}_absmax`,
    magnitudeScales: `${weight}_absmax_scales`,
    half: `${weight}_F16`,
  }) as const

export type Part = 'codes' | 'scales' | 'zeroPoints' | 'offsets' | 'halves'

export interface PlacedPart {
  readonly name: string
  readonly type: ElementType
  readonly dims: readonly number[]
  readonly part: Part
}

/** In file order, the codes first: they are written while the tensor streams by, the others after it. */
export function partsOf(
  weight: string,
  storage: Exclude<Storage, 'float32'>,
  [out, inSize]: readonly [number, number],
  spec: Pick<IntegerSpec, 'block' | 'grid'>,
): PlacedPart[] {
  const names = quantisedNames(weight)
  if (storage === 'float16') return [{ name: names.half, type: 'float16', dims: [out, inSize], part: 'halves' }]
  const perRow = inSize / spec.block
  if (storage === 'nf4') {
    const groups = Math.ceil((out * perRow) / GROUP)
    return [
      { name: names.nf4, type: 'uint8', dims: [(out * inSize) / 2], part: 'codes' },
      { name: names.magnitudes, type: 'uint8', dims: [groups, GROUP], part: 'zeroPoints' },
      { name: names.magnitudeScales, type: 'float32', dims: [groups, 1], part: 'scales' },
    ]
  }
  const bits = storage === 'int4' ? 4 : 8
  const grid = gridOf(storage, spec.grid)
  return [
    { name: names[storage], type: 'uint8', dims: [out, perRow, (spec.block * bits) / 8], part: 'codes' },
    { name: names.scales, type: 'float16', dims: [out, perRow], part: 'scales' },
    ...(grid === 'affine'
      ? [{ name: names.offsets, type: 'float16' as const, dims: [out, perRow], part: 'offsets' as const }]
      : []),
    ...(grid === 'asymmetric'
      ? [
          {
            name: names.zeroPoints,
            type: 'uint8' as const,
            dims: [out, Math.ceil((perRow * bits) / 8)],
            part: 'zeroPoints' as const,
          },
        ]
      : []),
  ]
}
