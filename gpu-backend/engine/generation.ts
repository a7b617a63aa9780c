// One request while it runs: what of its prompt has been seen, what it has produced, and when it is done.
import { createWriter, type Decode, type Writer } from '../text/writer.ts'
import type { Admitted } from './admission.ts'
import type { GrammarRow, Grammars } from './constraint.ts'
import { logprobOf, type TokenLogprob } from './logprobs.ts'
import type { Input, Row } from './model.ts'
import { nonFinite } from './non-finite.ts'
import type { PrefixRow } from './prefixes.ts'
import type { Account } from './queue.ts'
import type { Began, GenerateRequest, Piece } from './request.ts'
import { createSampler, type Sampler } from './sampler.ts'

interface TextOptions {
  readonly endIds: ReadonlySet<number>
  readonly decode: Decode | undefined
}

/** A scored prompt brings the logits of each of its tokens, a vocabulary each: this bounds what one run copies. */
const SCORED_CHUNK_TOKENS = 32

export class Generation implements PrefixRow {
  readonly id: number
  readonly request: GenerateRequest
  readonly row: Row
  readonly slot: number
  /** The step that last ran a part of the prompt; prompts take turns. */
  lastPrefill = 0
  readonly #endIds: ReadonlySet<number>
  readonly #sample: Sampler
  readonly #writer: Writer
  readonly #account: Account
  readonly #produced: number[] = []
  #grammar: GrammarRow | undefined
  #promptDone = 0
  #cachedTokens = 0
  #untold: Began | undefined
  #begun = false

  constructor({ id, request, row, slot, account, began }: Admitted, text: TextOptions) {
    this.id = id
    this.request = request
    this.row = row
    this.slot = slot
    this.#account = account
    this.#untold = request.timed === true ? began : undefined
    this.#endIds = text.endIds
    this.#sample = createSampler(request.sampling)
    this.#writer = createWriter(text.decode, request.promptIds, request.stop)
  }

  /** Prompt tokens that have not run; 0 once the row decodes. */
  get left(): number {
    return this.request.promptIds.length - this.#promptDone
  }

  /** Prompt tokens that one run may take. */
  get chunk(): number {
    return this.request.scorePrompt === true ? SCORED_CHUNK_TOKENS : Number.POSITIVE_INFINITY
  }

  tokenAt(at: number): number {
    return this.request.promptIds[at] ?? this.#produced[at - this.request.promptIds.length]!
  }

  reused(tokens: number): void {
    this.#promptDone += tokens
    this.#cachedTokens += tokens
    this.#account.tokens -= tokens
  }

  /** What the model is to run: the next `count` tokens of the prompt, or the token that was produced last. */
  next(count: number): Input {
    const { row, slot, left, request } = this
    if (left === 0) return { row, slot, tokens: [this.#produced.at(-1)!], logits: 'last' }
    const tokens = request.promptIds.slice(this.#promptDone, this.#promptDone + count)
    return { row, slot, tokens, logits: request.scorePrompt === true ? 'all' : left > count ? 'none' : 'last' }
  }

  /** Before `ran`: finds out which tokens the form of the answer allows next. Throws `request_invalid` for the form. */
  async prepare(grammars: Grammars): Promise<void> {
    const { constraint } = this.request
    if (constraint === undefined) return
    this.#grammar ??= await grammars.open(constraint)
    await this.#grammar.prepare()
  }

  /**
   * Takes the logits of what `next` said, one vector per token that asked for them. Undefined: nothing to tell yet.
   * Throws `non_finite_logits`.
   */
  ran(count: number, logits: readonly Float32Array[]): Piece | undefined {
    const piece = this.#take(count, logits)
    if (piece === undefined || this.#begun) return piece
    this.#begun = true
    return this.#cachedTokens === 0 ? piece : { ...piece, cachedTokens: this.#cachedTokens }
  }

  #take(count: number, logits: readonly Float32Array[]): Piece | undefined {
    const start = this.#promptDone
    if (this.left > 0) this.#promptDone += count
    if (start === this.#promptDone || this.request.scorePrompt !== true) {
      const vector = logits.at(-1)
      return vector && this.#produce(vector)
    }
    const promptLogprobs = this.#score(start, logits)
    if (this.left > 0) return { ids: [], text: '', promptLogprobs }
    if (this.request.maxTokens === 0) return { ids: [], text: '', promptLogprobs, finish: 'length' }
    return { ...this.#produce(logits.at(-1)!), promptLogprobs }
  }

  /** The piece as it leaves: the first one says when the row began, where that was asked for. */
  tell(piece: Piece): Piece {
    const began = this.#untold
    this.#untold = undefined
    return began === undefined ? piece : { ...piece, began }
  }

  close(): void {
    this.#grammar?.close()
    const { promptIds, maxTokens } = this.request
    this.#account.tokens -= promptIds.length + maxTokens - this.row.length
  }

  /** The vector at a token says how probable the next one was. */
  #score(start: number, logits: readonly Float32Array[]): TokenLogprob[] {
    const { promptIds, logprobs = 0 } = this.request
    return logits.flatMap((vector, offset) => {
      const id = promptIds[start + offset + 1]
      if (id === undefined) return []
      const scored = logprobOf(vector, id, logprobs)
      if (!Number.isFinite(scored.logprob)) throw nonFinite()
      return [scored]
    })
  }

  #produce(logits: Float32Array): Piece {
    const id = this.#sample(logits, this.#grammar?.allowed)
    this.#grammar?.accept(id)
    this.#produced.push(id)
    const { maxTokens, logprobs: top } = this.request
    const logprobs = top === undefined ? {} : { logprobs: [logprobOf(logits, id, top)] }
    if (this.#endIds.has(id)) return { ids: [id], text: this.#writer.end(), finish: 'stop', ...logprobs }
    const { text, stopped } = this.#writer.push(id)
    if (stopped) return { ids: [id], text, finish: 'stop', ...logprobs }
    if (this.#produced.length === maxTokens) {
      return { ids: [id], text: text + this.#writer.end(), finish: 'length', ...logprobs }
    }
    return { ids: [id], text, ...logprobs }
  }
}
