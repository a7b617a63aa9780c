// tokenizer.json of a GPT-2-like tokenizer: merges of byte pairs.
import { inputError, Problems, quote } from '../../errors.ts'
import type { Metadata } from '../metadata.ts'
import type { TokenizerModel } from './model.ts'
import { preTokenizer } from './pre-tokenizers.ts'
import type { Vocabulary } from './vocabulary.ts'

const MAX_MERGES = 1 << 21

/** Throws `InputError`. */
export function bytePairs(metadata: Metadata, { file, ids }: Vocabulary): TokenizerModel {
  const merges = metadata.need('tokenizer.ggml.merges', metadata.strings)
  if (merges.length > MAX_MERGES) {
    throw inputError('gguf-invalid', `${file}: ${merges.length} merges; at most ${MAX_MERGES} are read`)
  }
  const pre = preTokenizer(file, metadata.string('tokenizer.ggml.pre') ?? 'default')
  return {
    normalizer: pre.normalizer ?? null,
    preTokenizer: { type: 'Sequence', pretokenizers: pre.steps },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: pre.ignoreMerges ?? false,
      vocab: Object.fromEntries(ids),
      merges: splitMerges(file, merges, ids),
    },
    addBos: metadata.boolean('tokenizer.ggml.add_bos_token') ?? pre.addBos ?? false,
    addEos: metadata.boolean('tokenizer.ggml.add_eos_token') ?? false,
  }
}

function splitMerges(
  file: string,
  merges: readonly string[],
  ids: ReadonlyMap<string, number>,
): (readonly [string, string])[] {
  const problems = new Problems()
  const pairs = merges.map((merge, i): readonly [string, string] => {
    // From the second character on: a part may itself be a space.
    const at = merge.indexOf(' ', 1)
    const [left, right] = [merge.slice(0, at), merge.slice(at + 1)]
    if (at < 0 || right === '') problems.add('gguf-invalid', `${file}: merge ${i}, ${quote(merge)}, is no pair`)
    else if (![left, right, left + right].every((part) => ids.has(part))) {
      problems.add('gguf-invalid', `${file}: merge ${i}, ${quote(merge)}, is of parts that are no tokens`)
    }
    return [left, right]
  })
  problems.throwIfAny()
  return pairs
}
