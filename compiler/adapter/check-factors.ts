// The sizes of lora_A and lora_B against each other, the config and the base: the rank, and which way round the weight is.
import type { FloatTensorSource } from '../safetensors/stream.ts'
import { isSquareTransposed, mayBeTransposed } from './orientation.ts'
import type { Dialect, Reading } from './reading.ts'
import type { ModuleTensors } from './tensor-names.ts'

export type Pair = ModuleTensors & { readonly A: FloatTensorSource; readonly B: FloatTensorSource }

/** The sides of the factors, whichever way round they are stored. */
export interface Sides {
  readonly rA: number | undefined
  readonly rB: number | undefined
  /** One number, or the channels and the kernel of a convolution. */
  readonly in: readonly number[]
  readonly out: number
}

export function sidesOf({ A, B }: Pair, storesTransposed: boolean): Sides {
  if (storesTransposed) return { rA: A.shape[1], rB: B.shape[0], in: A.shape.slice(0, 1), out: B.shape[1] ?? 0 }
  return { rA: A.shape[0], rB: B.shape[1], in: A.shape.slice(1), out: B.shape[0] ?? 0 }
}

// The tensors tell the true rank, but the scaling comes from the config's: where they differ neither can be trusted.
export function checkRank(
  module: string,
  { rA, rB }: Sides,
  dialect: Dialect,
  { about, problems }: Reading,
): number | undefined {
  const said = dialect.rankOf(module)
  const r = said ?? rA ?? 0
  const found: readonly (readonly [string, number | undefined])[] = [
    ['lora_A', rA],
    ['lora_B', rB],
  ]
  const wrong = found.filter(([, rank]) => rank !== r || r < 1)
  for (const [factor, rank] of wrong) {
    const other = said === undefined ? `lora_A has r=${r}` : `adapter_config.json says r=${said}`
    problems.add(
      'adapter-rank',
      `${about}: ${module}.${factor} has r=${rank} but ${other}; re-export the adapter or fix the config`,
    )
  }
  return wrong.length === 0 ? r : undefined
}

/** Whether the base stores the weight [in, out]; `undefined`, and a problem, where nothing fits. */
export function checkShape(
  module: string,
  target: string,
  shape: readonly number[],
  { A, B, isEmbedding }: Pair,
  sides: Sides,
  { storesTransposed, namesEmbeddingsAlike, fanInFanOut }: Dialect,
  { about, problems, base }: Reading,
): boolean | undefined {
  const { in: inSides, out } = sides
  // Behind its first two sizes, lora_B of a convolution has ones.
  const isFlat = storesTransposed
    ? A.shape.length === 2 && B.shape.length === 2
    : B.shape.length === A.shape.length && B.shape.slice(2).every((size) => size === 1)
  const plain = isFlat && [out, ...inSides].join() === shape.join()
  const flipped = isFlat && shape.length === 2 && [...inSides, out].join() === shape.join()
  if (isEmbedding === true) {
    if (flipped) return true
  } else if (plain && flipped) {
    const transposed = isSquareTransposed(target, base, fanInFanOut)
    if (transposed === undefined) {
      problems.add(
        'adapter-base',
        `${about}: ${module} is square, and the base stores linears both as [out, in] and as [in, out]; which way this ` +
          'one is cannot be told, merge the adapter with PEFT',
      )
    }
    return transposed
  } else if (plain) return false
  else if (flipped && (namesEmbeddingsAlike || mayBeTransposed(target, out, base, fanInFanOut))) return true
  const what = isEmbedding === true ? 'embedding' : shape.length > 2 ? 'convolution' : 'linear'
  const size = shape.length === 2 && isEmbedding !== true ? `${shape[1]} → ${shape[0]}` : `[${shape}]`
  problems.add(
    'adapter-base',
    `${about}: ${module} has lora_A [${A.shape}] and lora_B [${B.shape}] but the base's ${what} is ${size}; ` +
      (shape.length > 2 && inSides[0] !== shape[1] && (inSides[0] ?? 0) % (shape[1] ?? 1) === 0
        ? 'LoRA on a grouped convolution cannot be merged, by PEFT either'
        : 'the adapter was trained for another base'),
  )
  return undefined
}
