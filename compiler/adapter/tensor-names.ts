// The tensors of a PEFT file by the module that they belong to; nothing is left over without a word.
import { type Problems, quote } from '../errors.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { type FloatTensorSource, isFloatTensor } from '../safetensors/stream.ts'

/** What one module of the base has in the adapter. */
export interface ModuleTensors {
  /** lora_A and lora_B of a linear or a convolution; of an embedding where `isEmbedding`. */
  A?: FloatTensorSource
  B?: FloatTensorSource
  isEmbedding?: boolean
  /** lora_B.bias */
  bias?: FloatTensorSource
  /** DoRA. */
  magnitude?: FloatTensorSource
  /** trainable_tokens_delta, which holds the new rows and not a difference. */
  tokens?: FloatTensorSource
  /** The rows that the above replaced: saved with the embedding, used for nothing but to undo it. */
  originalTokens?: FloatTensorSource
  /** kohya: the alpha of this module. */
  alpha?: FloatTensorSource
}

export interface AdapterTensors {
  /** By the path of the module as the adapter spells it. */
  readonly modules: Map<string, ModuleTensors>
  /** Tensors that were saved whole, by their name in the base as the adapter spells it; and repeats of them. */
  readonly whole: Map<string, FloatTensorSource[]>
  /** What `modules_to_save` replaced, which PEFT saves with bias="all": of no effect, by the name of the tensor. */
  readonly replaced: Map<string, FloatTensorSource>
}

const PREFIX = 'base_model.model.'
/** No module is nested so deep; keeps the work on one name small. */
export const MAX_NAME_CHARS = 1024
/** PEFT takes the adapter's name out when it saves; "default" is left where somebody saved the state themselves. */
const PARTS: readonly (readonly [RegExp, keyof Omit<ModuleTensors, 'isEmbedding'>, isEmbedding: boolean])[] = [
  [/^(.+)\.lora_A\.(?:default\.)?weight$/, 'A', false],
  [/^(.+)\.lora_B\.(?:default\.)?weight$/, 'B', false],
  [/^(.+)\.lora_B\.(?:default\.)?bias$/, 'bias', false],
  [/^(.+)\.lora_embedding_A(?:\.default)?$/, 'A', true],
  [/^(.+)\.lora_embedding_B(?:\.default)?$/, 'B', true],
  [/^(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$/, 'magnitude', false],
  [/^(.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?$/, 'tokens', false],
  [/^(.+)\.token_adapter\.trainable_tokens_original(?:\.default)?$/, 'originalTokens', false],
]
/** Wrappers that PEFT puts around a module whose own tensors follow. */
const WRAPPER = /\.(?:token_adapter\.base_layer|base_layer|modules_to_save(?:\.default)?)(?=\.)/
const REPLACED = /\.original_module(?=\.)/
/** Parts of adapters that no rule above knows; a base has no such names. */
const FOREIGN = /(^|\.)(lora_\w+|token_adapter|trainable_tokens_\w+)(\.|$)/

/** Reports every tensor whose name or type has no meaning. */
export function nameTensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  about: string,
  problems: Problems,
): AdapterTensors {
  const found: AdapterTensors = { modules: new Map(), whole: new Map(), replaced: new Map() }
  for (const tensor of tensors.values()) {
    const name = withoutPrefix(tensor.name)
    if (name === undefined) {
      problems.add('tensor-unknown', `${about}: tensor ${quote(tensor.name)} ${UNKNOWN}`)
    } else if (!isFloatTensor(tensor)) {
      problems.add(
        'tensor-dtype',
        `${about}: ${quote(name)} is ${tensor.dtype}; re-save the adapter in F32, F16 or BF16`,
      )
    } else {
      const wrong = place(name, tensor, found)
      if (wrong !== undefined) problems.add('tensor-unknown', `${about}: tensor ${quote(tensor.name)} ${wrong}`)
    }
  }
  return found
}

const UNKNOWN = 'is no part of an adapter that is read here; nothing is ignored, so re-export the adapter without it'
const TWICE = 'is there twice, under two spellings; re-export the adapter'

/** What is wrong with the tensor; `undefined` where it has found its place. */
function place(
  name: string,
  tensor: FloatTensorSource,
  { modules, whole, replaced }: AdapterTensors,
): string | undefined {
  for (const [pattern, part, isEmbedding] of PARTS) {
    const path = pattern.exec(name)?.[1]
    if (path === undefined) continue
    const module = modules.get(path) ?? {}
    if (module[part] !== undefined) return TWICE
    if (part === 'A' || part === 'B') {
      if (module.isEmbedding !== undefined && module.isEmbedding !== isEmbedding) return UNKNOWN
      module.isEmbedding = isEmbedding
    }
    module[part] = tensor
    modules.set(path, module)
    return undefined
  }
  const plain = name.replace(WRAPPER, '')
  if (FOREIGN.test(plain)) return UNKNOWN
  if (REPLACED.test(plain)) {
    const original = plain.replace(REPLACED, '')
    if (replaced.has(original)) return TWICE
    replaced.set(original, tensor)
  } else whole.set(plain, [...(whole.get(plain) ?? []), tensor])
  return undefined
}

/** Without the prefix, which is there twice where a model was wrapped twice. */
function withoutPrefix(name: string): string | undefined {
  if (!name.startsWith(PREFIX) || name.length > MAX_NAME_CHARS) return undefined
  let rest = name
  while (rest.startsWith(PREFIX)) rest = rest.slice(PREFIX.length)
  return rest
}
