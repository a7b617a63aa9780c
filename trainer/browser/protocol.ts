// What a page and its worker say to each other. One worker does one thing and ends: WebAssembly never gives memory back.
import type { TrainEvent, TrainResult } from '../run/train.ts'
import type { RuntimeUrls } from './device.ts'
import type { PagePlan } from './plan.ts'
import type { StoreKind } from './run-store.ts'
import type { Settings } from './settings.ts'

export interface Asked {
  /** URL of the base's folder, with a slash at its end. */
  readonly base: string
  /** What adapter_config.json calls it. */
  readonly baseName: string
  readonly data: File
  readonly settings: Settings
}

export type ToWorker =
  | ({ readonly kind: 'plan' } & Asked)
  | {
      readonly kind: 'train'
      readonly asked: Asked
      readonly runtime: RuntimeUrls
      readonly store: StoreKind
      readonly run: string
      /** Where the run is taken up again: what it was on. */
      readonly on?: { readonly provider: 'webgpu' | 'wasm'; readonly threads: number }
    }
  | { readonly kind: 'stop' }

export type FromWorker =
  | { readonly kind: 'plan'; readonly plan: PagePlan }
  | { readonly kind: 'began'; readonly device: string; readonly notes: readonly string[] }
  | { readonly kind: 'event'; readonly event: TrainEvent }
  | { readonly kind: 'ended'; readonly result: TrainResult }
  | { readonly kind: 'failed'; readonly problems: readonly string[] }
