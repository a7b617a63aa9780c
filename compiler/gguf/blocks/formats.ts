// The stored forms that are read, by ggml's number; the others have a name, so that an error can say it.
import { BF16 } from './bf16.ts'
import type { BlockFormat } from './block-format.ts'
import { F16 } from './f16.ts'
import { F32 } from './f32.ts'
import { Q4_0 } from './q4-0.ts'
import { Q4_1 } from './q4-1.ts'
import { Q4_K } from './q4-k.ts'
import { Q5_0 } from './q5-0.ts'
import { Q5_1 } from './q5-1.ts'
import { Q5_K } from './q5-k.ts'
import { Q6_K } from './q6-k.ts'
import { Q8_0 } from './q8-0.ts'

const READ: readonly BlockFormat[] = [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K]

export const FORMATS: ReadonlyMap<number, BlockFormat> = new Map(READ.map((format) => [format.type, format]))

export const FORMAT_NAMES = READ.map(({ name }) => name).join(', ')

const OTHERS: ReadonlyMap<number, string> = new Map([
  [9, 'Q8_1'],
  [10, 'Q2_K'],
  [11, 'Q3_K'],
  [15, 'Q8_K'],
  [16, 'IQ2_XXS'],
  [17, 'IQ2_XS'],
  [18, 'IQ3_XXS'],
  [19, 'IQ1_S'],
  [20, 'IQ4_NL'],
  [21, 'IQ3_S'],
  [22, 'IQ2_S'],
  [23, 'IQ4_XS'],
  [24, 'I8'],
  [25, 'I16'],
  [26, 'I32'],
  [27, 'I64'],
  [28, 'F64'],
  [29, 'IQ1_M'],
  [34, 'TQ1_0'],
  [35, 'TQ2_0'],
  [39, 'MXFP4'],
])

/** A name for any number that a file may have. */
export function formatName(type: number): string {
  return FORMATS.get(type)?.name ?? OTHERS.get(type) ?? `type ${type}`
}
