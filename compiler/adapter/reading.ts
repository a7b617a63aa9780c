// What the steps of one reading share: whose adapter it is, the base, where problems go, and how a dialect scales.
import type { Problems } from '../errors.ts'
import { decodeFloats, firstNonFinite } from '../safetensors/decode.ts'
import { type FloatTensorSource, readChunks, readFloats } from '../safetensors/stream.ts'
import type { BaseTensors } from './change.ts'
import type { Location } from './locate.ts'
import type { ModuleTensors } from './tensor-names.ts'

/** How a file's tensors become low-rank changes; what a config says, where the dialect has one. */
export interface Dialect {
  /** `undefined` where only the tensors know. `module`: as the adapter spells it. */
  rankOf(module: string): number | undefined
  scalingOf(module: string, r: number, tensors: ModuleTensors): number | Promise<number>
  /** A is stored [in, r] and B [r, out]. */
  readonly storesTransposed: boolean
  /** The factors of an embedding are named as those of a linear. */
  readonly namesEmbeddingsAlike: boolean
  readonly useDora: boolean
  readonly loraBias: boolean
  /** Said of all modules, true of the last that PEFT visited; used where shapes do not tell. */
  readonly fanInFanOut: boolean
}

export interface Reading {
  /** `adapter "name"` */
  readonly about: string
  readonly problems: Problems
  readonly base: BaseTensors
  /** The base is a part of a model, its layers' linears: what is not in it may exist all the same. */
  readonly isPartial: boolean
  readonly location: Location
}

/** The values as float32. Reports NaN and infinity. `what`: the tensor in a message. */
export async function readFinite(
  tensor: FloatTensorSource,
  what: string,
  { about, problems }: Reading,
): Promise<Float32Array> {
  const values = await readFloats(tensor)
  if (firstNonFinite(values) >= 0) reportNonFinite(what, about, problems)
  return values
}

/** As `readFinite`, for tensors that are not kept in memory. */
export async function checkFinite(tensor: FloatTensorSource, { about, problems }: Reading): Promise<void> {
  for await (const chunk of readChunks(tensor)) {
    if (firstNonFinite(decodeFloats(chunk, tensor.dtype)) < 0) continue
    reportNonFinite(tensor.name, about, problems)
    return
  }
}

function reportNonFinite(what: string, about: string, problems: Problems): void {
  problems.add('tensor-not-finite', `${about}: ${what} holds NaN or infinity; the training diverged`)
}
