// How probable a text is under an artifact, token by token: with its adapter, or as the base alone.
import { join } from 'node:path'
import type { Manifest } from '../compiler/contract.ts'
import type { Model } from './engine/model.ts'
import { openModel } from './engine/open.ts'
import { adapterReader } from './engine/store.ts'
import { BackendError } from './errors.ts'
import { openText } from './text/tokenizer.ts'

export interface ScoreOptions {
  /** Folder of the artifact. */
  readonly artifact: string
  /** Name or digest of an adapter of the artifact; absent: the base, or whatever was merged into it. */
  readonly adapter?: string
  readonly input: { readonly text: string } | { readonly tokenIds: readonly number[] }
  readonly threads?: number
}

export interface ScoredToken {
  readonly id: number
  /** Where the artifact has a tokenizer; one token may be half a character. */
  readonly text?: string
  /** Natural logarithm; null for the first token, which nothing precedes. */
  readonly logprob: number | null
}

export interface Score {
  readonly tokens: readonly ScoredToken[]
  readonly sumLogprob: number
  /** exp(−sum / number of tokens that have a probability) */
  readonly perplexity: number
}

/** Tokens per run: bounds the logits, which a run copies, to some MB. */
const CHUNK_TOKENS = 64
const SLOT = 1

/** Throws `BackendError` and the compiler's `InputError`. */
export async function score({ artifact, adapter, input, threads = 0 }: ScoreOptions): Promise<Score> {
  const config = { artifact, threads, slots: 1, bankRank: undefined, maxRows: 1 }
  const { folder, manifest, session, model, bank } = await openModel({
    ...config,
    kvBudgetBytes: Number.MAX_SAFE_INTEGER,
  })
  try {
    if (adapter !== undefined) {
      const digest = digestOf(manifest, adapter)
      if (bank === undefined) throw unsuitable(`has no adapter slots; score it without an adapter`)
      const read = adapterReader(manifest, bank.rank, [join(artifact, 'adapters')])
      bank.write(SLOT, bank.prepare(await read(digest)))
    }
    const text = await openText(folder)
    if ('text' in input && text === undefined) throw unsuitable('has no tokenizer; score token ids')
    const ids = 'text' in input ? text!.encode(input.text, model.maxPositions) : input.tokenIds
    checkIds(ids, manifest)
    const logprobs = await logprobsOf(model, ids, adapter === undefined ? 0 : SLOT)
    const sumLogprob = logprobs.reduce((sum, logprob) => sum + logprob, 0)
    return {
      tokens: ids.map((id, at) => ({
        id,
        ...(text === undefined ? {} : { text: text.decode([id]) }),
        logprob: at === 0 ? null : logprobs[at - 1]!,
      })),
      sumLogprob,
      perplexity: Math.exp(-sumLogprob / logprobs.length),
    }
  } finally {
    await session.release()
  }
}

async function logprobsOf(model: Model, ids: readonly number[], slot: number): Promise<number[]> {
  const row = model.open(ids.length)
  const logprobs: number[] = []
  for (let at = 0; at < ids.length - 1; at += CHUNK_TOKENS) {
    const tokens = ids.slice(at, Math.min(at + CHUNK_TOKENS, ids.length - 1))
    const [output] = await model.forward([{ row, tokens, slot, logits: 'all' }])
    for (const [offset, logits] of output!.logits.entries()) {
      logprobs.push(logSoftmaxAt(logits, ids[at + offset + 1]!))
    }
    if (!output!.finite) throw new BackendError('non_finite_logits', 'the model produced non-finite numbers')
  }
  return logprobs
}

/** x[id] − max x − log Σ exp(x − max x), in fp64. */
function logSoftmaxAt(logits: Float32Array, id: number): number {
  let max = Number.NEGATIVE_INFINITY
  for (const logit of logits) max = Math.max(max, logit)
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - max)
  return logits[id]! - max - Math.log(sum)
}

function digestOf(manifest: Manifest, adapter: string): string {
  const entry = manifest.adapters.find(({ name, digest }) => name === adapter || digest === adapter)
  if (entry !== undefined) return entry.digest
  const names = manifest.adapters.map(({ name }) => name).join(', ')
  throw unsuitable(`has no adapter "${adapter.slice(0, 100)}"; it has: ${names || 'none'}`)
}

function checkIds(ids: readonly number[], { base }: Manifest): void {
  const { vocabSize, maxPositions } = base.architecture
  if (ids.length < 2) throw new BackendError('request_invalid', 'a score needs two tokens or more')
  if (ids.length > maxPositions) {
    throw new BackendError('context_length_exceeded', `${ids.length} tokens; the model has ${maxPositions} positions`)
  }
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
  if (bad !== undefined) throw new BackendError('request_invalid', `token id ${bad} is not below ${vocabSize}`)
}

function unsuitable(what: string): BackendError {
  return new BackendError('artifact_unsuitable', `the artifact ${what}`)
}
