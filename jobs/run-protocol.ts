// What the thread of a run and the main thread say to each other.
import type { Failure, Progress, Recipe } from './contract.ts'

export interface RunData {
  readonly id: string
  readonly recipe: Recipe
  /** Folder of the uploads. */
  readonly blobs: string
  /** Folder of the artifacts; the run stages its own there. */
  readonly artifacts: string
  /** Room that is left for it. */
  readonly maxBytes: number
}

export type RunMessage =
  | ({ readonly kind: 'progress' } & Progress)
  | { readonly kind: 'done'; readonly artifact: string; readonly staged: string }
  | {
      readonly kind: 'failed'
      readonly failure: Failure
      readonly fault?: { readonly fault: string; readonly at: string }
    }
