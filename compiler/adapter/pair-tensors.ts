// The tensors of a PEFT file by the linear that they belong to; nothing is left over without a word.
import { type Problems, quote } from '../errors.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { type FloatTensorSource, isFloatTensor } from '../safetensors/stream.ts'

const KEY = /^base_model\.model\.(.+)\.lora_([AB])\.(?:default\.)?weight$/

export interface Pair {
  A?: FloatTensorSource
  B?: FloatTensorSource
}

/** Module → its factors. Reports every tensor that is not one factor of one linear. */
export function pairTensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  about: string,
  problems: Problems,
): Map<string, Pair> {
  const pairs = new Map<string, Pair>()
  for (const tensor of tensors.values()) {
    const [, module = '', factor] = KEY.exec(tensor.name) ?? []
    if (factor !== 'A' && factor !== 'B') {
      problems.add(
        'tensor-unknown',
        `${about}: tensor ${quote(tensor.name)} is not a lora_A or lora_B of a linear; ` +
          'nothing is ignored, so re-export the adapter without it',
      )
    } else if (!isFloatTensor(tensor)) {
      problems.add(
        'tensor-dtype',
        `${about}: ${module}.lora_${factor} is ${tensor.dtype}; re-save the adapter in F32, F16 or BF16`,
      )
    } else {
      const pair = pairs.get(module) ?? {}
      pairs.set(module, pair)
      if (pair[factor] === undefined) pair[factor] = tensor
      else problems.add('tensor-unknown', `${about}: ${module}.lora_${factor} is there twice; re-export the adapter`)
    }
  }
  return pairs
}
