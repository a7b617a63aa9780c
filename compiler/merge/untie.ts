// A base whose head is its embedding, and an adapter that changes the embedding alone: the output stores a head of its
// own, with the bytes that the embedding had.
import { z } from 'zod'
import { HEAD } from '../checkpoint/decoder.ts'
import { inputError, quote } from '../errors.ts'
import { readJson } from '../read-file.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import type { Base } from './open-base.ts'

const HeadJson = z.object({
  tie_word_embeddings: z.boolean().nullish(),
  architectures: z.array(z.string()).nullish(),
})
/** Classes whose head is called lm_head, and all that have a head over the vocabulary. */
const LM_HEAD = /(ForCausalLM|LMHeadModel)$/
const ANY_HEAD = /(LM|LMHeadModel|ForConditionalGeneration|ForPreTraining)$/

/**
 * The embedding that the output's head is a copy of, or `undefined` where none needs to be parted. `untied`: embeddings
 * that the adapters mean without the head. Throws `InputError` where the head cannot be told from the embedding.
 */
export async function findTied(
  base: Base,
  changed: ReadonlySet<string>,
  untied: readonly string[],
): Promise<StoredTensor | undefined> {
  const json = await readJson(base.folder, 'config.json')
  const { data } = HeadJson.safeParse(json ?? {})
  const [classes = '', isTied] = [data?.architectures?.join(), data?.tie_word_embeddings]
  const [name, other] = [...new Set(untied)]
  const refuse = (what: string) =>
    inputError('adapter-target', `${base.name}: ${what}; untie the base first (save it with tie_word_embeddings=False)`)
  if (base.tensors.has(HEAD)) {
    if (isTied !== true || (name === undefined && !changed.has(HEAD))) return undefined
    throw refuse(`${quote(HEAD)} is stored, but tie_word_embeddings says to ignore it`)
  }
  if (name === undefined || isTied === false || !ANY_HEAD.test(classes)) return undefined
  const tensor = base.tensors.get(name)
  if (other === undefined && tensor !== undefined && LM_HEAD.test(classes)) return tensor
  throw refuse(`${quote(name)} is tied to the head of ${classes}, which cannot be parted here`)
}

const TIED = /"tie_word_embeddings"\s*:\s*(?:true|false|null)/g

/** config.json with tie_word_embeddings false, and every other byte as it was: numbers may be written in any way. */
export function untieConfig(text: string, name: string): string {
  const found = [...text.matchAll(TIED)]
  const [only] = found
  if (found.length > 1) {
    throw inputError(
      'config-unsupported',
      `${name}: tie_word_embeddings is there ${found.length} times; untie it by hand`,
    )
  }
  if (only !== undefined) return text.replace(TIED, '"tie_word_embeddings": false')
  return text.replace('{', '{\n  "tie_word_embeddings": false,')
}

/** The index with the head beside the tensor that it was tied to. */
export function untieIndex(text: string, shard: string): string {
  return text.replace(/("weight_map"\s*:\s*\{)/, `$1\n    ${JSON.stringify(HEAD)}: ${JSON.stringify(shard)},`)
}
