// Messages between the main thread, which speaks HTTP, and the worker thread, which a running graph blocks.
import type { Mix } from '../contract.ts'
import type { EmbedRequest, EngineConfig, Failure, GenerateRequest, RowEvent, Stats } from './request.ts'
import type { Resident } from './slots.ts'

export interface EngineInfo {
  readonly base: string
  readonly maxPositions: number
  readonly vocabSize: number
  readonly slots: number
  /** Where the graph runs, for people. */
  readonly provider: string
  /** Numbers of a vector, where the base is an encoder. */
  readonly embeddingWidth?: number
}

export type ToWorker =
  | { readonly type: 'generate'; readonly id: number; readonly request: GenerateRequest }
  | { readonly type: 'abort'; readonly id: number }
  | { readonly type: 'close' }
  | Call

/** Answered by one `done`. */
export type Call =
  | { readonly type: 'load'; readonly id: number; readonly digest: string; readonly mix?: Mix | undefined }
  | { readonly type: 'unload'; readonly id: number; readonly digest: string }
  | { readonly type: 'list'; readonly id: number }
  | { readonly type: 'embed'; readonly id: number; readonly request: EmbedRequest }

export type FromWorker =
  | { readonly type: 'ready'; readonly info: EngineInfo; readonly stats: Stats }
  | { readonly type: 'unready'; readonly failure: Failure }
  | { readonly type: 'events'; readonly events: readonly RowEvent[]; readonly stats: Stats }
  /** Once a second while the thread is not inside a run: a thread that hangs sends none. */
  | { readonly type: 'alive'; readonly stats: Stats }
  | { readonly type: 'done'; readonly id: number; readonly outcome: Outcome; readonly stats: Stats }

export type Outcome =
  | { readonly slot: number }
  | { readonly residents: readonly Resident[] }
  | { readonly vectors: readonly Float32Array[] }
  | { readonly failure: Failure }
  | { readonly ok: true }

/** Between two signs of life. */
export const ALIVE_MS = 1_000

export interface WorkerData {
  readonly config: EngineConfig
}
