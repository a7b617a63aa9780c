// What a GGUF says of its tokens, checked: the list, what kind each is, and those with a role.
import { inputError, Problems } from '../../errors.ts'
import type { Metadata } from '../metadata.ts'

/** ggml's numbers for what a token is. */
export const KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

const MAX_TOKENS = 1 << 20

export interface Vocabulary {
  readonly file: string
  readonly tokens: readonly string[]
  /** Per token, one of `KIND`. */
  readonly kinds: readonly number[]
  readonly ids: ReadonlyMap<string, number>
  readonly bos: number | undefined
  readonly eos: number | undefined
  readonly unknown: number | undefined
  readonly padding: number | undefined
  /** Every token that ends an answer. */
  readonly ends: readonly number[]
}

/** Throws `InputError`. */
export function readVocabulary(metadata: Metadata): Vocabulary {
  const { file } = metadata
  const tokens = metadata.need('tokenizer.ggml.tokens', metadata.strings)
  if (tokens.length > MAX_TOKENS) {
    throw inputError('gguf-invalid', `${file}: ${tokens.length} tokens; at most ${MAX_TOKENS} are read`)
  }
  const kinds = metadata.numbers('tokenizer.ggml.token_type') ?? tokens.map(() => KIND.normal)
  const problems = new Problems()
  if (kinds.length !== tokens.length) {
    problems.add('gguf-invalid', `${file}: ${kinds.length} token types for ${tokens.length} tokens`)
  }
  const ids = new Map<string, number>()
  for (const [id, token] of tokens.entries()) {
    const other = ids.get(token)
    if (other === undefined) ids.set(token, id)
    else problems.add('gguf-invalid', `${file}: tokens ${other} and ${id} are the same, ${JSON.stringify(token)}`)
  }
  const role = (name: string): number | undefined => {
    const id = metadata.number(`tokenizer.ggml.${name}_token_id`)
    if (id === undefined || (Number.isInteger(id) && id >= 0 && id < tokens.length)) return id
    problems.add('gguf-invalid', `${file}: ${name}_token_id is ${id}, which is none of ${tokens.length} tokens`)
    return undefined
  }
  const [bos, eos, eot, eom] = [role('bos'), role('eos'), role('eot'), role('eom')]
  const [unknown, padding] = [role('unknown'), role('padding')]
  problems.throwIfAny()
  const ends = [...new Set([eos, eot, eom].filter((id) => id !== undefined))]
  return { file, tokens, kinds, ids, bos, eos, unknown, padding, ends }
}
