// tokenizer.json of a SentencePiece tokenizer with scores: GGUF's "llama", of Llama 2, Mistral and Gemma.
import { inputError } from '../../errors.ts'
import type { Metadata } from '../metadata.ts'
import type { TokenizerModel } from './model.ts'
import { KIND, type Vocabulary } from './vocabulary.ts'

const SPACE = '▁'
/** Every cut of a token is tried; the longest real ones are runs of spaces, and SentencePiece stops at 16 by default. */
const MAX_TOKEN_CHARS = 256

/**
 * SentencePiece joins, again and again, the neighbours whose union has the best score; as merges in the order of the
 * scores that is a byte-pair model with bytes for what no token covers. Throws `InputError`.
 */
export function sentencePieces(metadata: Metadata, vocabulary: Vocabulary): TokenizerModel {
  const { ids, tokens, unknown } = vocabulary
  const prefix = metadata.boolean('tokenizer.ggml.add_space_prefix') ?? true
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: SPACE }
  const steps = prefix ? [{ type: 'Prepend', prepend: SPACE }, replace] : [replace]
  const unk = unknown ?? vocabulary.kinds.indexOf(KIND.unknown)
  return {
    normalizer: { type: 'Sequence', normalizers: steps },
    preTokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: tokens[unk] ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(ids),
      merges: mergesByScore(metadata, vocabulary),
    },
    addBos: metadata.boolean('tokenizer.ggml.add_bos_token') ?? true,
    addEos: metadata.boolean('tokenizer.ggml.add_eos_token') ?? false,
  }
}

function mergesByScore(metadata: Metadata, { file, tokens, kinds, ids }: Vocabulary): (readonly [string, string])[] {
  const scores = metadata.need('tokenizer.ggml.scores', metadata.numbers)
  if (scores.length !== tokens.length) {
    throw inputError('gguf-invalid', `${file}: ${scores.length} scores for ${tokens.length} tokens`)
  }
  const joins = (id: number | undefined): id is number =>
    id !== undefined && (kinds[id] === KIND.normal || kinds[id] === KIND.unused || kinds[id] === KIND.userDefined)
  const merges: { pair: readonly [string, string]; score: number; left: number; right: number }[] = []
  for (const [id, token] of tokens.entries()) {
    if (!joins(id)) continue
    if (token.length > MAX_TOKEN_CHARS) {
      throw inputError(
        'gguf-invalid',
        `${file}: token ${id} has ${token.length} characters; at most ${MAX_TOKEN_CHARS} are read`,
      )
    }
    const local = []
    for (let at = 1; at < token.length; at += 1) {
      const pair = [token.slice(0, at), token.slice(at)] as const
      const [left, right] = [ids.get(pair[0]), ids.get(pair[1])]
      if (joins(left) && joins(right)) local.push({ pair, score: scores[id] as number, left, right })
    }
    merges.push(...local.sort((a, b) => a.left - b.left || a.right - b.right))
  }
  // The sort is stable: of equal scores, the token that comes first in the vocabulary is joined first.
  return merges.sort((a, b) => b.score - a.score).map(({ pair }) => pair)
}
