// A text to learn from: tokens, and which of them are to be predicted.

export interface Example {
  readonly ids: readonly number[]
  /** One a token. The first is never a target: nothing comes before it. */
  readonly isTarget: readonly boolean[]
}

/** Texts side by side in one row of a batch; they do not see each other. */
export type Row = readonly Example[]

export const countTargets = (examples: readonly Example[]): number =>
  examples.reduce((sum, { isTarget }) => sum + isTarget.slice(1).filter(Boolean).length, 0)
