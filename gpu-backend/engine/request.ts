// What the engine is asked for and what it answers: plain data, so that it crosses threads.
import type { Mix } from '../contract.ts'
import type { BackendErrorCode } from '../errors.ts'
import type { Constraint } from './constraint.ts'
import type { TokenLogprob } from './logprobs.ts'
import type { ProviderChoice } from './provider-choice.ts'
import type { Sampling } from './sampler.ts'

export interface GenerateRequest {
  readonly promptIds: readonly number[]
  /** 0: the prompt is scored and nothing is produced. */
  readonly maxTokens: number
  readonly sampling: Sampling
  readonly stop: readonly string[]
  /** Digest of the adapter, or of the mix; null is the base. */
  readonly adapter: string | null
  /** What `adapter` is made of, where it is a mix. */
  readonly mix?: Mix | undefined
  readonly tenant: string
  /** Log-probabilities of what is produced, with so many of the most probable tokens beside each. */
  readonly logprobs?: number | undefined
  /** Those of the prompt's tokens too. */
  readonly scorePrompt?: boolean | undefined
  /** What the answer has to be. */
  readonly constraint?: Constraint | undefined
  /** Says when it began. */
  readonly timed?: boolean | undefined
}

/** Texts to embed, as token ids. */
export interface EmbedRequest extends Pick<GenerateRequest, 'adapter' | 'mix' | 'tenant'> {
  readonly rows: readonly (readonly number[])[]
}

/** When a row began, in milliseconds since 1970 and parts of them, by the engine's clock. */
export interface Began {
  readonly queuedMs: number
  /** From when on it waited for its adapter to be read; null: it was there. */
  readonly loadingMs: number | null
  readonly admittedMs: number
}

/** What one step adds to one row. */
export interface Piece {
  readonly ids: readonly number[]
  /** May be empty while characters or possible stop strings are held back. */
  readonly text: string
  /** Of `ids`, where the request asked for them. */
  readonly logprobs?: readonly TokenLogprob[]
  /** Of the next tokens of the prompt, where the request asked for them: from its second token on. */
  readonly promptLogprobs?: readonly TokenLogprob[]
  /** Tokens of the prompt that had run before; the first piece has it, where there are any. */
  readonly cachedTokens?: number
  /** The last piece has it: `stop` for an end token or a stop string, `length` for `maxTokens`. */
  readonly finish?: 'stop' | 'length'
  /** In the first piece, where the request asked for it. */
  readonly began?: Began
}

export interface Failure {
  /** `internal` is our fault; its message stays in the log. */
  readonly code: BackendErrorCode | 'internal'
  readonly message: string
  /** The field of the request that is wrong, where there is one. */
  readonly param: string | null
}

export type RowEvent =
  | { readonly id: number; readonly piece: Piece }
  | { readonly id: number; readonly failure: Failure }

/** Counters since the start, and what is going on now. */
export interface Stats {
  readonly steps: number
  readonly prefillTokens: number
  readonly decodeTokens: number
  readonly rows: number
  readonly queued: number
  readonly slots: number
  /** Slots that could take an adapter now. */
  readonly free: number
  /** Of adapters in host memory, with and without a slot; absent where the graph has no low-rank path. */
  readonly adapterBytes?: number | undefined
  /** Adapters and mixes, by digest, that running rows use. */
  readonly running: readonly string[]
  /** Those that only waiting requests ask for. */
  readonly waiting: readonly string[]
  /** Tokens that running rows may come to hold, of those that the budget of the KV cache holds: 0 to 1. */
  readonly kvUsed: number
  /** Undefined where no prefixes are kept. */
  readonly prefixes?: PrefixStats | undefined
}

export interface PrefixStats {
  /** Tokens of the prompts that were looked for, and those of them that were found. */
  readonly queriedTokens: number
  readonly hitTokens: number
  readonly bytes: number
}

export interface EngineConfig {
  /** Folder of the artifact. */
  readonly artifact: string
  /** More folders with `<digest>.safetensors`. */
  readonly storeDirs: readonly string[]
  /** Adapters that can be resident at once. */
  readonly slots: number
  /** Largest rank that fits the bank; undefined: the largest of the artifact's adapters. */
  readonly bankRank: number | undefined
  readonly maxRows: number
  readonly maxQueue: number
  readonly kvBudgetBytes: number
  /** Of those, what prefixes of earlier prompts may take while rows do not need it; 0: nothing is reused. */
  readonly prefixBudgetBytes: number
  /** Adapters in host memory, with or without a slot: those that were used last are ready without the disk. Those that running
   * rows use stay even where they alone exceed it. */
  readonly hostBudgetBytes: number
  /** Prompt tokens per step, so that rows that decode never wait long for rows that join. */
  readonly prefillTokens: number
  /** 0: one per core. */
  readonly threads: number
  readonly provider: ProviderChoice
}

export const defaultEngineConfig = {
  storeDirs: [],
  slots: 8,
  bankRank: undefined,
  maxRows: 8,
  maxQueue: 64,
  kvBudgetBytes: 512 * 1024 * 1024,
  prefixBudgetBytes: 256 * 1024 * 1024,
  hostBudgetBytes: 1024 * 1024 * 1024,
  prefillTokens: 128,
  threads: 0,
  provider: 'cpu',
} as const satisfies Omit<EngineConfig, 'artifact'>
